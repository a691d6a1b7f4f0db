"""Training: the loop, what it measures, what it saves, and how a configuration becomes its parts."""
