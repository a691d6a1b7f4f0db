"""Distillation losses. They know tensors only: no model, no configuration, no layer name."""
