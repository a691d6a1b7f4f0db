"""The teacher's answers by (sample, view), memory-mapped on disk, so that the teacher is paid for once.

A cache is a folder named by what its answers depend on. Each field of an answer (the logits, the embedding, the map of a
stage) is one array of rows, one a (view, sample), beside a byte a row, its mark, and four, its checksum:

    FOLDER/KEY/about.json            what the key stands for
    FOLDER/KEY/FIELD.json            the field's name and shape
    FOLDER/KEY/FIELD.f16             [views, samples, *shape], float16; .u8 for maps in 8 bits, .i32 for whole numbers
    FOLDER/KEY/FIELD.done            [views, samples], 0 for a row that is not there, else 1 + a number that says its scale
    FOLDER/KEY/FIELD.sum             [views, samples], uint32: of the row's values and its mark
    FOLDER/KEY/.lock                 there while a process fills it

A row whose largest value is beyond float16 is stored divided by a power of two, its scale, so that it keeps float16's 11 bits.
What is not finite is refused. Rows are written before their marks are, so a killed process leaves rows to be written again and
never half ones that count; and a row whose checksum is not that of what is read is damage. One process at a time fills a cache; any
number read it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from angularkd.distillation.cache_fields import LARGEST_MARK, Field, digest
from angularkd.errors import InputError
from angularkd.system.files import check_writable, folders_made, reserve_file, write_json
from angularkd.system.locks import Lock

FORMAT = 3
"""Of a cache's files: part of its key, so that no other is read."""
ABOUT = "about.json"
"""The file that says what a cache's key stands for."""
CHECKED_ROWS = 4096
"""Rows whose checksums are computed at once, where all are."""
ROW_ENDINGS = {"done": "uint8", "sum": "uint32"}
"""Of the files of one number a row, marks and checksums, with its type."""
ROOM_REMEDY = (
    "give another folder, fewer views with `cache_views`, maps in 8 bits with `cache_maps=uint8`, or leave out `cache`"
)


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
        return digest(FORMAT, json.dumps(asdict(self), sort_keys=True))[:16]


class TeacherCache:
    """A cache on disk; its files are made, at their full size, when it begins to be filled.

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
        self._lock = Lock(self.folder / ".lock")
        self._arrays: dict[tuple[str, str], np.memmap] = {}
        self._to_write = 0
        for field in self.fields:
            self._check(field)
        if self.missing_rows:
            self._check_room(folder)

    def __reduce__(self) -> tuple[type[TeacherCache], tuple[Path, About, tuple[Field, ...]]]:
        """Let a copy open the same files, which it reads; it fills them only where this one does not."""
        return TeacherCache, (self.folder.parent, self.about, self.fields)

    @property
    def rows(self) -> int:
        """Return the number of answers of a full cache: samples in all views."""
        return self.about.views_count * self.about.samples

    @property
    def size_bytes(self) -> int:
        """Return the size of the used fields, once they are full."""
        return sum(sum(self._sizes(field).values()) for field in self.fields)

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

    def reserve(self) -> None:
        """Become the one process that fills the cache, and make its files, at their full size; nothing is done for a full one.

        Raises:
            InputError: where another process fills it, the folder cannot be written to, or the disk has no room.
        """
        if self._lock.held or not self.missing_rows:
            return
        check_writable(self.folder, "cache")
        with folders_made(self.folder):
            if not self._lock.acquire():
                raise InputError(
                    f"another process fills the teacher cache {self.folder}: wait until it is done, or give another `cache`; a full "
                    "one serves any number of runs at once"
                )
            try:
                self._make()
            except BaseException:
                self._lock.release()
                raise
        self._arrays.clear()  # which may have been opened for reading alone
        self._to_write = self.missing_rows

    def reopen(self) -> None:
        """Read anew what another process has stored since."""
        self._arrays.clear()

    def close(self) -> None:
        """Let other processes fill the cache."""
        self.flush()
        self._lock.release()

    def write(self, view: int, indices: Int[Tensor, " batch"], values: Mapping[str, Tensor]) -> None:
        """Store the answers to some samples of a view, where they are not there yet: for each field [batch, *shape], rounded to its type.

        Raises:
            InputError: for values that are not finite, and as `reserve` does.
        """
        self.reserve()
        rows, marked = self._rows(view, indices), []
        for field in self.fields:
            packed, marks = field.packed(values[field.name].cpu(), indices)
            new = ~_valid(self._marks(field)[rows])  # what is there stays, for others may be reading it
            self._values(field)[rows[new]] = packed[new]
            self._sums(field)[rows[new]] = field.checksums(packed, marks)[new]
            marked.append((field, rows[new], marks[new]))
        for field, written, marks in marked:
            self._marks(field)[written] = marks
        self._to_write -= len(rows)
        if self._to_write <= 0:
            self._to_write = self.missing_rows
            if not self._to_write:
                self.close()

    def read(self, view: int, indices: Int[Tensor, " batch"], device: torch.device) -> dict[str, Tensor]:
        """Return the answers to samples of a view, as float32, or int64 where they are whole. All of them must be there.

        Raises:
            InputError: for stored values that `write` cannot have written.
        """
        rows = self._rows(view, indices)
        read = {}
        for field in self.fields:
            found, marks = self._checked(field, rows)
            read[field.name] = field.unpacked(torch.from_numpy(found), marks, device)
        return read

    def check(self) -> int:
        """Read every row that is there, and return how many there are.

        Raises:
            InputError: for stored values that `write` cannot have written.
        """
        there = np.flatnonzero(self._held(slice(None))) if self._there else np.zeros(0, dtype=np.int64)
        for rows in (there[start : start + CHECKED_ROWS] for start in range(0, len(there), CHECKED_ROWS)):
            for field in self.fields:
                self._checked(field, rows)
        return len(there)

    def flush(self) -> None:
        """Wait until all that was written is on the disk, the values before their marks."""
        if self._lock.held:
            for marks in (False, True):
                for (_, ending), array in self._arrays.items():
                    if (ending == "done") == marks:
                        array.flush()

    @property
    def _there(self) -> bool:
        return all(self._file(field, "json").exists() for field in self.fields)

    def _held(self, rows: np.ndarray | slice) -> np.ndarray:
        held: np.ndarray = np.logical_and.reduce([_valid(self._marks(field)[rows]) for field in self.fields])
        return held

    def _values(self, field: Field) -> np.memmap:
        return self._array(field, field.ending, field.dtype, field.shape)

    def _marks(self, field: Field) -> np.memmap:
        return self._array(field, "done", ROW_ENDINGS["done"], ())

    def _sums(self, field: Field) -> np.memmap:
        return self._array(field, "sum", ROW_ENDINGS["sum"], ())

    def _checked(self, field: Field, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values of rows and their marks. Raise InputError where they are not as they were written."""
        found, marks = np.asarray(self._values(field)[rows]), np.asarray(self._marks(field)[rows])
        damage = field.damage(found)
        if damage is None and not np.array_equal(field.checksums(found, marks), self._sums(field)[rows]):
            damage = "values are not those that were written"
        if damage is not None:
            raise self._damaged(f"{field.name}: {damage}")
        return found, marks

    def _array(self, field: Field, ending: str, dtype: str, shape: tuple[int, ...]) -> np.memmap:
        """Return a file as an array; it can be written to where this process fills the cache."""
        if (field.name, ending) not in self._arrays:
            mode: Literal["r+", "r"] = "r+" if self._lock.held else "r"
            self._arrays[field.name, ending] = np.memmap(
                self._file(field, ending), dtype, mode, shape=(self.rows, *shape)
            )
        return self._arrays[field.name, ending]

    def _rows(self, view: int, indices: Int[Tensor, " batch"]) -> np.ndarray:
        rows: np.ndarray = indices.cpu().numpy() + view % self.about.views_count * self.about.samples
        return rows

    def _file(self, field: Field, ending: str) -> Path:
        return self.folder / f"{field.file}.{ending}"

    def _sizes(self, field: Field) -> dict[str, int]:
        per_row = {ending: np.dtype(kind).itemsize for ending, kind in ROW_ENDINGS.items()}
        return {ending: self.rows * size for ending, size in ({field.ending: field.row_bytes} | per_row).items()}

    def _make(self) -> None:
        """Create the files that are not there, their room on the disk reserved; where it has none, leave nothing behind."""
        new = [field for field in self.fields if not self._file(field, "json").exists()]
        made: list[Path] = []
        try:
            for field in new:
                for ending, size in self._sizes(field).items():
                    made.append(self._file(field, ending))
                    reserve_file(made[-1], size)
        except OSError as error:
            for file in made:
                file.unlink(missing_ok=True)
            raise InputError(
                f"the teacher cache cannot be made in {self.folder.parent} ({error.strerror}): it needs {self.size_bytes / 2**30:.1f} GiB: "
                f"{ROOM_REMEDY}"
            ) from error
        write_json(self.folder / ABOUT, {"format": FORMAT, **asdict(self.about)})
        for field in new:
            write_json(self._file(field, "json"), asdict(field))

    def _check(self, field: Field) -> None:
        if not self._file(field, "json").exists():
            return
        for ending, size in self._sizes(field).items():
            file = self._file(field, ending)
            if not file.exists() or file.stat().st_size != size:
                raise self._damaged(f"{file.name} has not its {size:,} bytes")

    def _damaged(self, how: str) -> InputError:
        return InputError(
            f"the teacher cache {self.folder} is damaged ({how}): remove the folder, and it is filled anew"
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
                f"{ROOM_REMEDY}"
            )


def _valid(marks: np.ndarray) -> np.ndarray:
    """Return which marks are those of rows that are there."""
    return np.asarray((marks > 0) & (marks <= LARGEST_MARK))


def check_folder(folder: Path) -> None:
    """Check that a folder can hold caches: that it can be written to, or holds some already, which may be full.

    Raises:
        InputError: where it cannot.
    """
    if not any(folder.glob(f"*/{ABOUT}")):
        check_writable(folder, "cache")
