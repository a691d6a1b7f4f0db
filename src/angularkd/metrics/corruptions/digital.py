"""Corruptions of digital images: large pixels, compression, and a warp."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from angularkd.metrics.corruptions.draws import Draws, Images

Array = NDArray[np.float64]


def pixelate(images: Images, draws: Draws, share: float) -> Images:
    """Shrink each side to that share, and enlarge it again."""

    def larger_pixels(image: Image.Image) -> Image.Image:
        small = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_pillow(images, larger_pixels)


def jpeg_compression(images: Images, draws: Draws, quality: int) -> Images:
    """Write and read JPEG of that quality."""

    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return _by_pillow(images, compressed)


def elastic_transform(images: Images, draws: Draws, warp: tuple[float, float, float]) -> Images:
    """Move three points at random, and each pixel by smoothed random steps.

    Args:
        images: to warp.
        draws: what is random.
        warp: the steps' length, the standard deviation that smooths them, and the largest move of a point, as parts of the shorter side.
    """
    from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

    height, width = images.shape[2:]
    length, smoothing, move = (part * min(height, width) for part in warp)
    moves, steps = draws.uniform(-move, move, 3, 2), draws.uniform(-1, 1, 2, height, width)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    out = np.empty_like(images)
    for index, image in enumerate(images):
        matrix = _affine(height, width, moves[index])
        smooth = [gaussian_filter(step, smoothing, mode="reflect", truncate=3) for step in steps[index]]
        places = grid + length * np.stack(smooth)
        for channel, values in enumerate(image):
            turned = affine_transform(values, matrix, order=1, mode="mirror")
            out[index, channel] = map_coordinates(turned, places, order=1, mode="reflect")
    return out


def _affine(height: int, width: int, moves: Array) -> Array:
    """Return the matrix from (row, column, 1) of an output to its source, for three points of the image that are moved."""
    centre, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    points = centre + arm * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = np.column_stack([points + moves, np.ones(3)])
    if arm == 0 or abs(np.linalg.det(moved)) < 1e-9:
        return np.eye(3)
    return np.vstack([np.linalg.solve(moved, points).T, [0, 0, 1]])


def _by_pillow(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    """Return what a function makes of each image of 8 bits."""
    eight_bits = np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    changed = [np.asarray(change(Image.fromarray(image))) for image in eight_bits]
    return np.stack(changed).transpose(0, 3, 1, 2) / 255
