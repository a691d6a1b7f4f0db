"""A whole split decoded into memory: one uint8 tensor, from which every batch of every epoch is cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from angularkd.data.splits import ArrayStore, Split
from angularkd.errors import InputError
from angularkd.system.memory import free_memory_bytes

MEMORY_SHARE = 0.6
"""Largest part of the free memory that one split may take."""

IMAGES_PER_TASK = 64
PIXELS_PER_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class ResidentImages:
    """A decoded split. pixels: RGB, contiguous; labels: class indices; both by row of the split."""

    pixels: UInt8[Tensor, "samples height width 3"]
    labels: Int64[Tensor, " samples"]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.pixels.shape[1], self.pixels.shape[2])


def load_resident(
    split: Split, image_size: tuple[int, int] | None = None, *, threads: int | None = None
) -> ResidentImages:
    """Decode a split with a pool of threads (as many as there are cores); images that are decoded already are copied.

    image_size: (height, width). An image of another size is resized, bilinear with antialiasing, until it just covers
                this size, and cut centrally. None keeps the images as they are, which must then be of one size.

    Raises InputError when an image cannot be decoded, when sizes differ and image_size is None, and before anything is
    allocated when the pixels would take more than MEMORY_SHARE of the free memory.
    """
    if len(split) == 0:
        raise InputError("the split holds no images: nothing to load.")
    height, width = image_size or split[0][0].shape[:2]
    _check_memory(len(split), height, width)
    if isinstance(split.store, ArrayStore) and split.store.size(0) == (height, width):
        return _resident(split.store.pixels[split.rows], split)
    pixels = np.empty((len(split), height, width, 3), dtype=np.uint8)

    def decode(start: int) -> None:
        for index in range(start, min(start + IMAGES_PER_TASK, len(split))):
            image, _ = split[index]
            if image_size is not None:
                image = fit(image, image_size)
            elif image.shape[:2] != (height, width):
                raise InputError(
                    f"images differ in size: {split.name(0)} is {height} x {width}, {split.name(index)} is "
                    f"{image.shape[0]} x {image.shape[1]} (height x width); give one size, as in --image-size 224."
                )
            pixels[index] = image

    pool = ThreadPoolExecutor(threads or cores())
    try:
        for _ in pool.map(decode, range(0, len(split), IMAGES_PER_TASK)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, decode no further
    return _resident(pixels, split)


def _resident(pixels: UInt8[np.ndarray, "samples height width 3"], split: Split) -> ResidentImages:
    return ResidentImages(torch.from_numpy(pixels), torch.from_numpy(split.labels.copy()))


def fit(
    image: UInt8[np.ndarray, "in_height in_width 3"], image_size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize until the image just covers `image_size`, and keep the centre: both in one antialiased bilinear step."""
    height, width = image.shape[:2]
    if (height, width) == tuple(image_size):
        return image
    scale = min(height / image_size[0], width / image_size[1])  # pixels of the image for one of the result
    kept_height, kept_width = min(scale * image_size[0], height), min(scale * image_size[1], width)
    top, left = (height - kept_height) / 2, (width - kept_width) / 2
    box = (left, top, min(left + kept_width, width), min(top + kept_height, height))
    resized = Image.fromarray(image).resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def channel_stats(resident: ResidentImages) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over all pixels of all images, in 0..1.

    Exact, from a histogram of each channel. The deviation is the population's (divided by n), 0 for a constant channel.
    """
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for chunk in _chunks(resident.pixels):
        for channel in range(3):
            counts[channel] += torch.bincount(chunk[..., channel].flatten(), minlength=256)
    red, green, blue = (_mean_and_std(channel.tolist()) for channel in counts)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    """Of pixels in 0..1, from how many there are of each level 0..255; Python's integers neither overflow nor round."""
    number = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    total_squared = sum(level**2 * count for level, count in enumerate(counts))
    variance = (number * total_squared - total**2) / number**2
    return total / number / 255, variance**0.5 / 255


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(pixels: UInt8[Tensor, "samples height width 3"]) -> Iterator[UInt8[Tensor, "chunk height width 3"]]:
    images = max(1, PIXELS_PER_CHUNK // (pixels.shape[1] * pixels.shape[2]))
    for start in range(0, len(pixels), images):
        yield pixels[start : start + images]


def _check_memory(images: int, height: int, width: int) -> None:
    needed = images * height * width * 3
    free = free_memory_bytes()
    if free is not None and needed > MEMORY_SHARE * free:
        raise InputError(
            f"{images} images of {height} x {width} need {needed / 2**30:.1f} GiB of memory, more than "
            f"{MEMORY_SHARE:.0%} of the {free / 2**30:.1f} GiB that are free: choose a smaller --image-size, or --loader workers."
        )
