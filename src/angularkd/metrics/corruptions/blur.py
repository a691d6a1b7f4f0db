"""Corruptions by blur: a lens out of focus, frosted glass, a moving camera, a camera that comes nearer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from angularkd.metrics.corruptions.draws import Draws, Images

Array = NDArray[np.float64]


def defocus_blur(images: Images, draws: Draws, lens: tuple[float, float]) -> Images:
    """Blur with a disk of a radius in pixels, whose rim is smoothed with a standard deviation in pixels."""
    from scipy.ndimage import convolve

    return convolve(images, _disk(*lens)[None, None], mode="mirror")


def glass_blur(images: Images, draws: Draws, glass: tuple[float, int, int]) -> Images:
    """Blur, let pixels take the colours of others near them, and blur again.

    Pixel after pixel, from the last to the first, takes the colour that a pixel near it has by then: what the published code does, whose
    line that is to exchange the two copies one.

    Args:
        images: to blur.
        draws: what is random.
        glass: the standard deviation of the blur in pixels, how near the other pixel is, and how often all pixels are gone through.
    """
    from scipy.ndimage import gaussian_filter

    sigma, near, times = glass
    batch, channels, height, width = images.shape
    rows, columns = np.arange(height - near, near, -1), np.arange(width - near, near, -1)
    offsets = draws.integers(-near, near, times, len(rows), len(columns), 2) @ np.array([width, 1])
    places = (rows[:, None] * width + columns).ravel()
    sources = np.tile(np.arange(height * width)[:, None], batch)
    numbers = np.arange(batch)
    for steps in offsets.reshape(batch, times, -1).transpose(1, 2, 0):
        for place, step in zip(places, steps, strict=True):
            sources[place] = sources[place + step, numbers]
    blurred = gaussian_filter(images, (0, 0, sigma, sigma), mode="nearest").reshape(batch, channels, -1)
    shuffled = np.take_along_axis(blurred, sources.T[:, None], axis=2).reshape(images.shape)
    return gaussian_filter(shuffled, (0, 0, sigma, sigma), mode="nearest")


def motion_blur(images: Images, draws: Draws, motion: tuple[int, float]) -> Images:
    """Blur along a line at an angle of -45 to 45 degrees, by one half of a Gaussian of a radius and a standard deviation in pixels."""
    return moved(images, draws.uniform(-45, 45), *motion)


def zoom_blur(images: Images, draws: Draws, zooms: tuple[float, float]) -> Images:
    """Average with zooms from 1 to (not with) the first number in steps of the second."""
    factors = np.arange(1, *zooms)
    out = images.copy()
    for factor in factors:
        out += zoomed(images, factor)
    return out / (len(factors) + 1)


def moved(images: Images, degrees: Array, radius: int, sigma: float) -> Images:
    """Return images blurred along a line at an angle each, by one half of a Gaussian of a radius and a standard deviation in pixels."""
    weights = np.exp(-np.square(np.arange(2 * radius + 1)) / (2 * sigma**2))
    pairs = zip(images, np.deg2rad(degrees), strict=True)
    return np.stack([_moved(image, angle, weights / weights.sum()) for image, angle in pairs])


def zoomed(images: Images, factor: float) -> Images:
    """Return the centre of the images enlarged by a factor, interpolated linearly to the size of the whole."""
    return _zoomed(_zoomed(images, factor, axis=2), factor, axis=3)


def _disk(radius: float, smoothing: float) -> Array:
    """Return the kernel, whose sum is 1."""
    from scipy.ndimage import correlate1d

    size = 3 if radius <= 8 else 5
    reach = math.floor(radius) + size // 2
    steps = np.arange(-reach, reach + 1)
    disk = (np.square(steps)[:, None] + np.square(steps) <= radius**2).astype(np.float64)
    weights = np.exp(-np.square(np.arange(size) - size // 2) / (2 * smoothing**2))
    for axis in (0, 1):
        disk = correlate1d(disk, weights, axis=axis, mode="constant")
    return disk / disk.sum()


def _moved(image: Array, angle: float, weights: Array) -> Array:
    """Return the mean of the image shifted step by step, with its last rows and columns continued."""
    _, height, width = image.shape
    down, right = math.sin(angle), math.cos(angle)
    out = np.zeros_like(image)
    for step, weight in enumerate(weights):
        rows = np.clip(np.arange(height) + math.ceil(step * down - 0.5), 0, height - 1)
        columns = np.clip(np.arange(width) + math.ceil(step * right - 0.5), 0, width - 1)
        out += weight * image[:, rows][:, :, columns]
    return out


def _zoomed(images: Array, factor: float, axis: int) -> Array:
    """Return the centre of the images interpolated linearly to the whole, along one axis."""
    side = images.shape[axis]
    cropped = math.ceil(side / factor)
    enlarged = round(cropped * factor)
    kept = np.arange(side) + (enlarged - side) // 2
    places = (side - cropped) // 2 + kept * ((cropped - 1) / max(enlarged - 1, 1))
    first = np.clip(np.floor(places).astype(int), 0, side - 1)
    second = np.minimum(first + 1, side - 1)
    share = np.expand_dims(places - first, tuple(range(1, images.ndim - axis)))
    return images.take(first, axis) * (1 - share) + images.take(second, axis) * share
