"""Loaders: batches of augmented images, cut from memory or decoded by worker processes, in one order."""
