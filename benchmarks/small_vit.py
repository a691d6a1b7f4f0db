"""A vision transformer for images of 32 pixels: patches of 4, six blocks of 96 channels, 0.7 million parameters."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer


def small_vit(num_classes: int) -> VisionTransformer:
    """Return the transformer, with random weights."""
    return VisionTransformer(
        img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=3, num_classes=num_classes, class_token=True
    )
