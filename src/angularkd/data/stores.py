"""Stores of images: what a row is, how it is read, and which rows a file reads together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from angularkd.data.decode import decode_image, image_size


@runtime_checkable
class Store(Protocol):
    """A table of images, one row an image, each decoded when it is asked for. Several threads may read it at once."""

    def __len__(self) -> int: ...

    def image(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Decode the image of a row into RGB."""
        ...

    def size(self, row: int) -> tuple[int, int]:
        """Return the (height, width) of an image, without decoding it where the format allows that."""
        ...

    def name(self, row: int) -> str:
        """Return what to call the image in a message: its path, or its file and row."""
        ...


@dataclass(frozen=True, eq=False)
class RowGroups:
    """The groups of rows that a store reads at once.

    Attributes:
        starts: The first row of each group, ascending, and behind them the number of rows.
        sizes_bytes: What each group takes in memory.
        cache_bytes: How many bytes of groups the store holds before it drops the one it used least recently.
    """

    starts: Int64[np.ndarray, " starts"]
    sizes_bytes: Int64[np.ndarray, " groups"]
    cache_bytes: int


@runtime_checkable
class GroupedStore(Store, Protocol):
    """A store that reads a whole group of rows for any row of it."""

    @property
    def groups(self) -> RowGroups:
        """Return the groups, from which an order is drawn that reads each of them once."""
        ...


@runtime_checkable
class FiledStore(Store, Protocol):
    """A store whose images are in files."""

    @property
    def files(self) -> Sequence[str | Path]:
        """Return the files that images are read from, by whose sizes and times a change of the images is noticed."""
        ...


class EncodedStore(ABC):
    """A store of encoded images, which are decoded when they are asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return the bytes of an image, and its name. Raises InputError when they cannot be read."""

    def image(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Decode the image of a row into RGB. Raises InputError when that cannot be done."""
        return decode_image(*self.encoded(row))

    def size(self, row: int) -> tuple[int, int]:
        """Return (height, width) from the header of the image. Raises InputError when it cannot be read."""
        return image_size(*self.encoded(row))

    def name(self, row: int) -> str:
        """Return the name by which messages call the image."""
        return self.encoded(row)[1]


class ArrayStore:
    """A store of images of one size that are decoded already."""

    def __init__(self, name: str, pixels: UInt8[np.ndarray, "samples height width 3"]) -> None:
        self._name = name
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a copy of the image."""
        pixels: np.ndarray = self.pixels[row].copy()
        return pixels

    def size(self, row: int) -> tuple[int, int]:
        """Return (height, width), which all images share."""
        return (self.pixels.shape[1], self.pixels.shape[2])

    def name(self, row: int) -> str:
        """Return the number of the image and the name of the store."""
        return f"image {row} of {self._name}"
