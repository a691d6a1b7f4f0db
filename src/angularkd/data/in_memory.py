"""A whole split decoded into memory: one uint8 tensor, from which every batch of every epoch is cut."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from angularkd.data.decode import PILLOW_SILENT
from angularkd.data.splits import Split
from angularkd.data.stores import ArrayStore
from angularkd.errors import InputError
from angularkd.system.memory import free_memory_bytes

MEMORY_SHARE = 0.6
"""Largest part of the free memory that one split may take."""

IMAGES_PER_TASK = 64


@dataclass(frozen=True, eq=False)
class ResidentImages:
    """A decoded split.

    Attributes:
        pixels: RGB, contiguous, by row of the split.
        labels: Class indices, by row of the split.
    """

    pixels: UInt8[Tensor, "samples height width 3"]
    labels: Int64[Tensor, " samples"]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return (self.pixels.shape[1], self.pixels.shape[2])


def load_resident(split: Split, image_size: tuple[int, int] | None = None) -> ResidentImages:
    """Decode a split with a thread for each core; images that are decoded already are copied.

    Args:
        split: The images.
        image_size: (height, width). An image of another size is resized, bilinear with antialiasing, until it just covers
            this size, and cut centrally. None keeps the images as they are, which must then be of one size.

    Raises:
        InputError: The split is empty, an image cannot be decoded, or sizes differ and `image_size` is None; and, before
            anything is allocated, when the pixels would take more than MEMORY_SHARE of the free memory.
    """
    return _load(split, image_size, skip=False)[0]


def load_readable(split: Split, image_size: tuple[int, int] | None = None) -> tuple[ResidentImages, dict[int, str]]:
    """Decode a split as `load_resident` does, but leave out the images that cannot be decoded.

    Returns:
        The others, and of each image that is left out the index, ascending, with what is wrong with it.

    Raises:
        InputError: As `load_resident` does, but for images that cannot be decoded.
    """
    return _load(split, image_size, skip=True)


def find_bad_images(split: Split) -> dict[int, str]:
    """Decode every image of a split, and return the index of each that cannot be, ascending, with what is wrong with it."""
    if isinstance(split.store, ArrayStore):
        return {}
    return _decode(split, lambda index, image: None, skip=True)


def fits_memory(images: int, image_size: tuple[int, int], device: torch.device | str = "cpu") -> bool:
    """Say whether so many resident images take at most MEMORY_SHARE of the free memory, of the machine and of a CUDA GPU."""
    free = [free_memory_bytes()]
    if torch.device(device).type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    needed = images * math.prod(image_size) * 3
    return all(known is None or needed <= MEMORY_SHARE * known for known in free)


def fit(
    image: UInt8[np.ndarray, "in_height in_width 3"], image_size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize until the image just covers `image_size`, and cut the centre: both in one antialiased bilinear step."""
    height, width = image.shape[:2]
    if (height, width) == tuple(image_size):
        return image
    scale = min(height / image_size[0], width / image_size[1])  # pixels of the image for one of the result
    cut_height, cut_width = min(scale * image_size[0], height), min(scale * image_size[1], width)
    top, left = (height - cut_height) / 2, (width - cut_width) / 2
    box = (left, top, min(left + cut_width, width), min(top + cut_height, height))
    resized = Image.fromarray(image).resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(split: Split, image_size: tuple[int, int] | None, skip: bool) -> tuple[ResidentImages, dict[int, str]]:
    if len(split) == 0:
        raise InputError("the split holds no images: nothing to load.")
    if isinstance(split.store, ArrayStore) and image_size in (None, split.store.size(0)):
        _check_memory(len(split), *split.store.size(0))
        return _resident(split.store.pixels[split.rows], split.labels.copy()), {}
    first, bad = (None, {}) if image_size is not None else _decode_first(split, skip)
    height, width = image_size or (first[1].shape[:2] if first is not None else (1, 1))
    _check_memory(len(split), height, width)
    pixels = np.empty((len(split), height, width, 3), dtype=np.uint8)

    def place(index: int, image: UInt8[np.ndarray, "_ _ 3"]) -> None:
        if image_size is not None:
            image = fit(image, image_size)
        elif image.shape[:2] != (height, width):
            assert first is not None
            raise InputError(
                f"images differ in size: {split.name(first[0])} is {height} x {width}, {split.name(index)} is "
                f"{image.shape[0]} x {image.shape[1]} (height x width); give one size, as in `image_size=224`."
            )
        pixels[index] = image

    if first is not None:
        place(*first)
    bad |= _decode(split, place, skip, start=len(bad) + (first is not None))
    return _resident(*_close_gaps(pixels, split.labels, bad)), bad


def _decode_first(split: Split, skip: bool) -> tuple[tuple[int, np.ndarray] | None, dict[int, str]]:
    """Decode the first image that can be, and return it with its index, and what is wrong with those before it."""
    bad: dict[int, str] = {}
    for index in range(len(split)):
        try:
            return (index, split[index][0]), bad
        except InputError as error:
            if not skip:
                raise
            bad[index] = str(error)
    return None, bad


def _decode(split: Split, use: Callable[[int, np.ndarray], None], skip: bool, start: int = 0) -> dict[int, str]:
    """Decode all images from an index on, by threads; return what is wrong with those that were skipped, ascending."""

    def decode(first: int) -> dict[int, str]:
        bad = {}
        for index in range(first, min(first + IMAGES_PER_TASK, len(split))):
            try:
                image, _ = split[index]
            except InputError as error:
                if not skip:
                    raise
                bad[index] = str(error)
            else:
                use(index, image)
        return bad

    pool = ThreadPoolExecutor(cores())
    with PILLOW_SILENT:  # once for all of them
        try:
            parts = list(pool.map(decode, range(start, len(split), IMAGES_PER_TASK)))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, decode no further
    return {index: complaint for part in parts for index, complaint in part.items()}


def _close_gaps(
    pixels: UInt8[np.ndarray, "samples height width 3"], labels: Int64[np.ndarray, " samples"], bad: Mapping[int, str]
) -> tuple[UInt8[np.ndarray, "good height width 3"], Int64[np.ndarray, " good"]]:
    """Move the good images together, in place, since a copy may not fit into memory."""
    good = np.setdiff1d(np.arange(len(labels)), list(bad))
    for place in range(min(bad, default=len(good)), len(good)):
        pixels[place] = pixels[good[place]]
    return pixels[: len(good)], labels[good]


def _resident(
    pixels: UInt8[np.ndarray, "samples height width 3"], labels: Int64[np.ndarray, " samples"]
) -> ResidentImages:
    return ResidentImages(torch.from_numpy(pixels), torch.from_numpy(labels))


def _check_memory(images: int, height: int, width: int) -> None:
    needed = images * height * width * 3
    free = free_memory_bytes()
    if free is not None and needed > MEMORY_SHARE * free:
        raise InputError(
            f"{images} images of {height} x {width} need {needed / 2**30:.1f} GiB of memory, more than "
            f"{MEMORY_SHARE:.0%} of the {free / 2**30:.1f} GiB that are free: choose a smaller `image_size`, or "
            "`loader=workers`."
        )
