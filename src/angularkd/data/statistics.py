"""Channel statistics: mean and standard deviation of the training images, by which models normalise them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from angularkd.data.in_memory import ResidentImages, load_resident
from angularkd.data.splits import Split

PIXELS_PER_CHUNK = 2**22
SAMPLED_IMAGES = 10_000
BYTES_AT_ONCE = 2**28

Channels = tuple[float, float, float]


def channel_stats(resident: ResidentImages) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of each channel over all pixels of all images, in 0..1.

    They are exact, from a histogram of each channel. The deviation is the population's (divided by n), 0 for a constant
    channel.
    """
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for chunk in _chunks(resident.pixels):
        for channel in range(3):
            counts[channel] += torch.bincount(chunk[..., channel].flatten(), minlength=256)
    red, green, blue = (_mean_and_std(channel.tolist()) for channel in counts)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def sampled_channel_stats(
    split: Split, image_size: tuple[int, int], images: int = SAMPLED_IMAGES
) -> tuple[Channels, Channels]:
    """Return `channel_stats` of at most so many images, evenly spread over the split: exact where it has no more.

    Of the 10,000 the mean of all pixels is known to about 1/100 of the deviation between the means of single images.

    Raises:
        InputError: An image of the sample cannot be decoded.
    """
    count = min(images, len(split))
    rows = np.arange(count, dtype=np.int64) * len(split) // count
    at_once = max(1, BYTES_AT_ONCE // (math.prod(image_size) * 3))
    weights, means, squares = [], [], []
    for start in range(0, count, at_once):
        part = split.select(rows[start : start + at_once])
        mean, std = (np.array(values) for values in channel_stats(load_resident(part, image_size)))
        weights.append(len(part))
        means.append(mean)
        squares.append(std**2 + mean**2)
    mean = np.average(means, axis=0, weights=weights)
    std = np.sqrt(np.maximum(np.average(squares, axis=0, weights=weights) - mean**2, 0.0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    """Return both, in 0..1, from the number of pixels at each level 0..255; Python's integers neither overflow nor round."""
    number = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    total_squared = sum(level**2 * count for level, count in enumerate(counts))
    variance = (number * total_squared - total**2) / number**2
    return total / number / 255, variance**0.5 / 255


def _chunks(pixels: UInt8[Tensor, "samples height width 3"]) -> Iterator[UInt8[Tensor, "chunk height width 3"]]:
    images = max(1, PIXELS_PER_CHUNK // (pixels.shape[1] * pixels.shape[2]))
    for start in range(0, len(pixels), images):
        yield pixels[start : start + images]
