"""Data: what a DATA spec names, its augmentation as tables, and the loaders that make batches of the two."""
