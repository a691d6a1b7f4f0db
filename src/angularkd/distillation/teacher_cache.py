"""The teacher's answers by (sample, view), memory-mapped on disk, so that the teacher is paid for once.

A cache is a folder named by what its answers depend on. Each field of an answer (the logits, the embedding, the map of a
stage) is one array of rows, one a (view, sample), beside a byte a row that says whether it was written:

    FOLDER/KEY/about.json            what the key stands for
    FOLDER/KEY/FIELD.json            the field's name and shape
    FOLDER/KEY/FIELD.f16             [views, samples, *shape], float16, sparse until it is filled; .i32 for whole numbers
    FOLDER/KEY/FIELD.done            [views, samples]

Rows are written before their mark is, so a killed process leaves rows to be written again and never half ones that count.
Processes that write the same row write the same values.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from angularkd.errors import InputError
from angularkd.system.files import write_json

ENDINGS = {"float16": "f16", "int32": "i32"}
"""Of files, by the type of their numbers."""


@dataclass(frozen=True)
class Field:
    """One part of the teacher's answer to an image: its name, its shape for one sample, and the type it is stored in."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float16", "int32"] = "float16"

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one sample."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @property
    def ending(self) -> str:
        """Return the ending of its file's name."""
        return ENDINGS[self.dtype]

    @property
    def file(self) -> str:
        """Return its file's name without the ending, different for different fields."""
        readable = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.name)[:60]
        return f"{readable}-{_digest(self.name, self.shape)[:8]}"


@dataclass(frozen=True)
class About:
    """What a teacher's answers depend on; equal ones share a cache.

    Attributes:
        teacher: fingerprint of its weights and code.
        preprocessing: what is done to images before it, and to its classes behind it.
        precision: of its arithmetic.
        data: fingerprint of the decoded training images in their order.
        views: the augmentation, its seed and sizes.
        samples, views_count: how many images and views there are, whose product is the rows of every field.
    """

    teacher: str
    preprocessing: str
    precision: str
    data: str
    views: Mapping[str, Any]
    samples: int
    views_count: int

    @property
    def key(self) -> str:
        """Return the name of the cache's folder."""
        return _digest(json.dumps(asdict(self), sort_keys=True))[:16]


class TeacherCache:
    """A cache on disk; its files are made when the first answer is written.

    Args:
        folder: the folder that holds caches.
        about: which of them.
        fields: what is used of it; others that it holds are left alone.

    Raises:
        InputError: for files that are not as long as they must be, and where the disk has no room for what is missing.
    """

    def __init__(self, folder: Path, about: About, fields: Sequence[Field]) -> None:
        self.folder = folder / about.key
        self.about = about
        self.fields = tuple(fields)
        for field in self.fields:
            self._check(field)
        self._check_room(folder)

    @property
    def rows(self) -> int:
        """Return the number of answers of a full cache: samples in all views."""
        return self.about.views_count * self.about.samples

    @property
    def size_bytes(self) -> int:
        """Return the size of the used fields, once they are full."""
        return self.rows * sum(field.row_bytes + 1 for field in self.fields)

    @property
    def filled(self) -> float:
        """Return the share of rows that hold all used fields."""
        return 1 - self.missing_rows / self.rows

    @property
    def missing_rows(self) -> int:
        """Return the number of answers that a full cache has and this one has not."""
        return self.rows - int(self._held(slice(None)).sum()) if self._there else self.rows

    def missing(self, view: int, indices: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Say which samples of a batch are not there yet."""
        rows = self._rows(view, indices)
        return torch.from_numpy(~self._held(rows) if self._there else np.ones(len(rows), dtype=bool))

    def write(self, view: int, indices: Int[Tensor, " batch"], values: Mapping[str, Tensor]) -> None:
        """Store the answers to some samples of a view: for each field [batch, *shape], rounded to the field's type."""
        self._make()
        rows = self._rows(view, indices)
        for field in self.fields:
            self._values[field.name][rows] = values[field.name].to("cpu", getattr(torch, field.dtype)).numpy()
        for field in self.fields:
            self._done[field.name][rows] = 1

    def read(self, view: int, indices: Int[Tensor, " batch"], device: torch.device) -> dict[str, Tensor]:
        """Return the answers to samples of a view, as float32, or int64 where they are whole. All of them must be there."""
        rows = self._rows(view, indices)
        read = {}
        for field in self.fields:
            stored = torch.from_numpy(self._values[field.name][rows])
            stored = (
                stored.pin_memory() if device.type == "cuda" else stored
            )  # so that the copy does not wait for the device
            on_device = stored.to(device, non_blocking=True)
            read[field.name] = on_device.float() if stored.is_floating_point() else on_device.long()
        return read

    def flush(self) -> None:
        """Wait until all that was written is on the disk, the values before their marks."""
        if self._there:
            for arrays in (self._values, self._done):
                for array in arrays.values():
                    array.flush()

    @property
    def _there(self) -> bool:
        return all(self._file(field, "json").exists() for field in self.fields)

    def _held(self, rows: np.ndarray | slice) -> np.ndarray:
        held: np.ndarray = np.logical_and.reduce([self._done[field.name][rows] == 1 for field in self.fields])
        return held

    @cached_property
    def _values(self) -> dict[str, np.memmap]:
        return {
            field.name: np.memmap(self._file(field, field.ending), field.dtype, "r+", shape=(self.rows, *field.shape))
            for field in self.fields
        }

    @cached_property
    def _done(self) -> dict[str, np.memmap]:
        return {
            field.name: np.memmap(self._file(field, "done"), np.uint8, "r+", shape=(self.rows,))
            for field in self.fields
        }

    def _rows(self, view: int, indices: Int[Tensor, " batch"]) -> np.ndarray:
        rows: np.ndarray = indices.cpu().numpy() + view % self.about.views_count * self.about.samples
        return rows

    def _file(self, field: Field, ending: str) -> Path:
        return self.folder / f"{field.file}.{ending}"

    def _sizes(self, field: Field) -> dict[str, int]:
        return {field.ending: self.rows * field.row_bytes, "done": self.rows}

    def _make(self) -> None:
        """Create the files that are not there, empty and sparse: of processes that do it at once, none disturbs another."""
        if self._there:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "about.json", asdict(self.about))
        for field in self.fields:
            if not self._file(field, "json").exists():
                for ending, size in self._sizes(field).items():
                    with self._file(field, ending).open("ab") as made:
                        made.truncate(size)
                write_json(self._file(field, "json"), asdict(field))

    def _check(self, field: Field) -> None:
        if not self._file(field, "json").exists():
            return
        for ending, size in self._sizes(field).items():
            file = self._file(field, ending)
            if not file.exists() or file.stat().st_size != size:
                raise InputError(
                    f"the teacher cache {self.folder} is damaged ({file.name} has not its {size:,} bytes): "
                    "remove the folder, and it is filled anew"
                )

    def _check_room(self, folder: Path) -> None:
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        known = sum(
            file.stat().st_blocks * 512 for field in self.fields for file in self.folder.glob(f"{field.file}.*")
        )
        needed, free = self.size_bytes - known, shutil.disk_usage(there).free
        if needed > free:
            raise InputError(
                f"the teacher cache needs {needed / 2**30:.1f} GiB in {folder}, which has {free / 2**30:.1f} GiB left: "
                "give another folder, fewer views with `cache_views`, or leave out `cache`"
            )


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
