"""Views: augmentation as tables, which are drawn from seeds and applied to whole batches."""
