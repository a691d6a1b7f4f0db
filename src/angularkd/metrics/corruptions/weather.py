"""Corruptions by weather: fog and snow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from angularkd.metrics.corruptions.blur import moved, zoomed
from angularkd.metrics.corruptions.draws import Draws, Images

GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue count for brightness (ITU-R BT.601)."""


def fog(images: Images, draws: Draws, density: tuple[float, float]) -> Images:
    """Add clouds of a strength, whose details shrink by a factor from size to half the size."""
    strength, decay = density
    height, width = images.shape[2:]
    clouds = _clouds(draws, max(height, width), decay)[:, None, :height, :width]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + strength * clouds) * brightest / (brightest + strength)


def snow(images: Images, draws: Draws, fall: tuple[float, float, float, float, int, float, float]) -> Images:
    """Let snow fall: noise that is enlarged, cut off below a threshold and blurred along a line, over an image that is whitened.

    Args:
        images: on which it falls.
        draws: what is random.
        fall: mean and standard deviation of the noise, the factor that enlarges it, the threshold, radius and standard deviation of the
            blur in pixels, and the share of the image that is not whitened.
    """
    mean, deviation, factor, threshold, radius, sigma, share = fall
    flakes = zoomed(mean + deviation * draws.normal(1, *images.shape[2:]), factor)
    flakes = np.floor(np.clip(np.where(flakes < threshold, 0, flakes), 0, 1) * 255) / 255
    falling = moved(flakes, draws.uniform(-135, -45), radius, sigma)
    grey = np.tensordot(images, GREY, axes=(1, 0))[:, None]
    whitened = share * images + (1 - share) * np.maximum(images, 1.5 * grey + 0.5)
    return whitened + falling + np.rot90(falling, k=2, axes=(2, 3))


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
