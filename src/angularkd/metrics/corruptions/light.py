"""Corruptions of light: brightness and contrast."""

from __future__ import annotations

import numpy as np

from angularkd.metrics.corruptions.draws import Draws, Images


def brightness(images: Images, draws: Draws, more: float) -> Images:
    """Add to the value of each pixel, the largest of its colours; hue and saturation stay."""
    value = images.max(axis=1, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, images * (brighter / np.where(value > 0, value, 1)), brighter)


def contrast(images: Images, draws: Draws, share: float) -> Images:
    """Leave that share of each channel's distance from its mean."""
    means = images.mean(axis=(2, 3), keepdims=True)
    return (images - means) * share + means
