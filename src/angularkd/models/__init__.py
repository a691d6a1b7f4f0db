"""The networks: CIFAR families of our own, sources of others, and their weights."""
