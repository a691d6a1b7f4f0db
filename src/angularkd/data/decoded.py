"""Decoded splits: what a command has decoded of a data set, so that none of its images is decoded twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from angularkd.data.in_memory import ResidentImages, find_bad_images, load_readable, load_resident
from angularkd.data.splits import Split


@dataclass(frozen=True, eq=False)
class Part:
    """A split as it was decoded, at the (height, width) that was asked for; None for that of its images."""

    split: Split
    image_size: tuple[int, int] | None
    images: ResidentImages

    def is_at(self, image_size: tuple[int, int] | None) -> bool:
        """Say whether its images are those that decoding at this size would give."""
        return image_size == self.image_size or (self.image_size is None and image_size == self.images.image_size)

    def places(self, split: Split) -> Int64[np.ndarray, " samples"] | None:
        """Return where the images of a split are among these, or None where some are not."""
        if split.store is not self.split.store or len(self.split) == 0:
            return None
        if np.array_equal(split.rows, self.split.rows):
            return np.arange(len(split), dtype=np.int64)
        order = np.argsort(self.split.rows, kind="stable")
        found = np.searchsorted(self.split.rows, split.rows, sorter=order)
        places: np.ndarray = order[np.minimum(found, len(order) - 1)]
        return places if np.array_equal(self.split.rows[places], split.rows) else None


class DecodedSplits:
    """The splits of a data set that are decoded in memory, and the images of it that are known to be bad.

    A data set and everything derived from it (smaller, screened, at another size) share one. It holds one size of each
    split: the last that was asked for.
    """

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._bad: dict[str, tuple[Split, dict[int, str]]] = {}

    def holds(self, name: str, split: Split, image_size: tuple[int, int] | None) -> bool:
        """Say whether a split, or one that contains it, is in memory at this (height, width)."""
        part = self._parts.get(name)
        return part is not None and part.is_at(image_size) and part.places(split) is not None

    def load(self, name: str, split: Split, image_size: tuple[int, int] | None) -> ResidentImages:
        """Return a split's images, cut from what is decoded, or decoded now.

        Args:
            name: "train", "val" or "test".
            split: The split, or some images of it.
            image_size: (height, width), or None for that of the images, which must then be of one size.

        Raises:
            InputError: As `in_memory.load_resident` does.
        """
        part = self._parts.get(name)
        places = part.places(split) if part is not None and part.is_at(image_size) else None
        if part is None or places is None:
            self._parts.pop(name, None)
            part = Part(split, image_size, load_resident(split, image_size))
            self._parts[name] = part
            return part.images
        if np.array_equal(split.rows, part.split.rows):
            return part.images
        rows = torch.from_numpy(places)
        return ResidentImages(part.images.pixels[rows], part.images.labels[rows])

    def bad_images(self, name: str, split: Split, image_size: tuple[int, int] | None, resident: bool) -> dict[int, str]:
        """Find the images of a split that cannot be decoded, by index, ascending, with what is wrong with each.

        Args:
            name: "train", "val" or "test".
            split: The split.
            image_size: (height, width) at which the others stay in memory.
            resident: Whether they do stay there; else they are decoded only to find the bad ones.

        Raises:
            InputError: The images take too much memory, or differ in size where `image_size` is None.
        """
        known = self._bad.get(name)
        if known is not None and known[0] is split:
            return known[1]
        if resident:
            self._parts.pop(name, None)
            images, bad = load_readable(split, image_size)
            self._parts[name] = Part(without(split, bad), image_size, images)
        else:
            bad = find_bad_images(split)
        self._bad[name] = (split, bad)
        return bad

    def keep_size(self, image_size: tuple[int, int] | None) -> None:
        """Drop what is decoded at another (height, width)."""
        self._parts = {name: part for name, part in self._parts.items() if part.is_at(image_size)}

    def release(self) -> None:
        """Drop all decoded images; loaders that cut batches from them keep theirs."""
        self._parts = {}


def without(split: Split, bad: Mapping[int, str]) -> Split:
    """Return the split without these indices: the split itself where there are none."""
    return split.select(np.setdiff1d(np.arange(len(split)), list(bad))) if bad else split
