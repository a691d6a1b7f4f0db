"""Corruptions of light: fog, brightness and contrast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from angularkd.metrics.corruptions.draws import Draws, Images


def fog(images: Images, draws: Draws, density: tuple[float, float]) -> Images:
    """Add clouds of a strength, whose details shrink by a factor from size to half the size."""
    strength, decay = density
    height, width = images.shape[2:]
    clouds = _clouds(draws, max(height, width), decay)[:, None, :height, :width]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + strength * clouds) * brightest / (brightest + strength)


def brightness(images: Images, draws: Draws, more: float) -> Images:
    """Add to the value of each pixel, the largest of its colours; hue and saturation stay."""
    value = images.max(axis=1, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, images * (brighter / np.where(value > 0, value, 1)), brighter)


def contrast(images: Images, draws: Draws, share: float) -> Images:
    """Leave that share of each channel's distance from its mean."""
    means = images.mean(axis=(2, 3), keepdims=True)
    return (images - means) * share + means


def _clouds(draws: Draws, side: int, decay: float) -> NDArray[np.float64]:
    """Return fractal maps in 0..1 by the diamond-square algorithm, [batch, size, size], of the next power of two."""
    size = 1 << max(1, (side - 1).bit_length())
    maps = np.zeros((len(draws.generators), size, size))
    step, wobble = size, 100.0

    def wobbled(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums / 4 + wobble * draws.uniform(-wobble, wobble, *sums.shape[1:])

    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]
        rows = corners + np.roll(corners, -1, axis=1)
        maps[:, half::step, half::step] = wobbled(rows + np.roll(rows, -1, axis=2))
        centres, corners = maps[:, half::step, half::step], maps[:, ::step, ::step]
        across = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        maps[:, ::step, half::step] = wobbled(across)
        along = centres + np.roll(centres, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        maps[:, half::step, ::step] = wobbled(along)
        step, wobble = half, wobble / decay
    maps -= maps.min(axis=(1, 2), keepdims=True)
    return maps / maps.max(axis=(1, 2), keepdims=True)
