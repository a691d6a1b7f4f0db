"""Parquet files in the Hugging Face layout: columns image {bytes, path} and label, class names in the metadata."""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from angularkd.data.splits import Source, labelled_splits, split_named
from angularkd.data.stores import EncodedStore, RowGroups
from angularkd.errors import InputError

CACHE_BYTES = 256 * 2**20
"""What the row groups that a store holds in memory may take, in each process."""


@dataclass(frozen=True, eq=False)
class ImageColumn:
    """The images of a row group, field by field, which is read in half the time of a struct; null where the struct is.

    Attributes:
        folder: Where its file is.
        bytes: The encoded images.
        path: Where each came from, if the file says so.
    """

    folder: str
    bytes: pa.BinaryArray
    path: pa.StringArray | None

    @staticmethod
    def of(images: pa.StructArray, folder: Path) -> ImageColumn:
        """Take the fields out of a column of structs."""
        fields = {field.name: values for field, values in zip(images.type, images.flatten(), strict=True)}
        return ImageColumn(str(folder), fields["bytes"], fields.get("path"))


class ParquetStore(EncodedStore):
    """A store of the rows of several files, read a row group at a time; the groups read last stay in memory.

    What a group takes is counted by the files' own metadata, up to CACHE_BYTES for all, so that an order of samples can be
    planned by the same numbers before anything is read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._groups: list[tuple[Path, int]] = []
        self._starts = [0]
        self._sizes: list[int] = []
        for file in self.files:
            metadata = pq.ParquetFile(file).metadata
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                self._groups.append((file, number))
                self._starts.append(self._starts[-1] + group.num_rows)
                self._sizes.append(_image_bytes(group))
        self._cache_bytes = CACHE_BYTES
        self._cache: OrderedDict[int, ImageColumn] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ParquetStore], tuple[list[Path]]]:
        return ParquetStore, (self.files,)  # locks and caches stay behind when a worker process gets its copy

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def groups(self) -> RowGroups:
        """Return the row groups of all files, in order."""
        return RowGroups(np.array(self._starts), np.array(self._sizes, dtype=np.int64), self._cache_bytes)

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return the bytes of an image, and its name. Raises InputError when they cannot be read, or are missing."""
        group = bisect.bisect_right(self._starts, row) - 1
        column, place = self._read_group(group), row - self._starts[group]
        path = column.path[place].as_py() if column.path is not None else None
        name = f"row {row} of {column.folder}, {path or 'unnamed'}"
        data = column.bytes[place].as_py()
        if not data:
            raise InputError(f"cannot decode {name}: it holds no bytes; write the images into the parquet file.")
        return data, name

    def _read_group(self, group: int) -> ImageColumn:
        with self._lock:
            if group not in self._cache:
                file, index = self._groups[group]
                with _readable(file):
                    column = pq.ParquetFile(file).read_row_group(index, columns=["image"]).column("image")
                self._cache[group] = ImageColumn.of(column.combine_chunks(), file.parent)
                while len(self._cache) > 1 and sum(self._sizes[held] for held in self._cache) > self._cache_bytes:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]


def _image_bytes(group: pq.RowGroupMetaData) -> int:
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.startswith("image."))


def open_parquet(folder: Path) -> Source:
    """Open the parquet files below a folder, whose splits are named by the files (train-00000-of-00004.parquet) or by the
    folders that they are in (train/0000.parquet).

    Raises:
        InputError: There are no such files, a file cannot be read, columns are others, splits name different classes, or
            labels lie outside the classes.
    """
    files, notes = _files_by_split(folder)
    names = {split: _class_names(paths) for split, paths in files.items()}
    known = {value for value in names.values() if value is not None}
    if len(known) > 1:
        raise InputError(f"{folder}: the splits name different classes; write them with one list of class names.")
    labels = {split: _labels(paths) for split, paths in files.items()}
    stores = {split: ParquetStore(paths) for split, paths in files.items()}
    classes, splits, label_notes = labelled_splits(str(folder), stores, labels, next(iter(known), None))
    return Source(folder.resolve().name, classes, splits, (*notes, *label_notes))


def _files_by_split(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    found: dict[str, list[Path]] = {}
    unnamed: list[str] = []
    for path in sorted(folder.rglob("*.parquet")):
        within = path.relative_to(folder)
        split = split_named(within)
        if split is None:
            unnamed.append(within.as_posix())
        else:
            found.setdefault(split, []).append(path)
    if "train" not in found:
        present = ", ".join([path.name for paths in found.values() for path in paths] + unnamed) or "no parquet files"
        raise InputError(
            f"{folder}: expected train*.parquet (and test*.parquet or validation*.parquet), found {present}; "
            "rename the files by split."
        )
    notes = [f"passed over, since the name gives no split: {name}" for name in unnamed]
    return {split: found[split] for split in ("train", "val", "test") if split in found}, notes


def _class_names(files: list[Path]) -> tuple[str, ...] | None:
    """Check the columns of every file, and return the class names in the metadata of the first; None where it has none."""
    schemas = [_checked_schema(file) for file in files]
    encoded = (schemas[0].metadata or {}).get(b"huggingface")
    if encoded is None:
        return None
    names = json.loads(encoded).get("info", {}).get("features", {}).get("label", {}).get("names")
    return tuple(str(name) for name in names) if names else None


def _checked_schema(file: Path) -> pa.Schema:
    with _readable(file):
        schema = pq.read_schema(file)
    fields = {field.name: field.type for field in schema}
    image, label = fields.get("image"), fields.get("label")
    if image is None or label is None or not (_holds_bytes(image) and pa.types.is_integer(label)):
        found = ", ".join(f"{name}: {kind}" for name, kind in fields.items())
        raise InputError(
            f"{file}: expected the columns image: struct<bytes: binary, path: string> and label: int64, found {found}; "
            "rename or convert them, as the datasets library writes an Image and a ClassLabel."
        )
    return schema


def _holds_bytes(image: pa.DataType) -> bool:
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
        return False
    kind = image.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(files: list[Path]) -> Int64[np.ndarray, " samples"]:
    columns = [np.zeros(0, dtype=np.int64)]
    for file in files:
        with _readable(file):
            column = pq.ParquetFile(file).read(columns=["label"]).column("label")
        if column.null_count:
            raise InputError(f"{file}: {column.null_count} rows have no label; remove them or label them.")
        # not column.to_numpy(), which imports pandas where it is installed
        columns += [np.from_dlpack(chunk).astype(np.int64) for chunk in column.chunks]
    return np.concatenate(columns)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raise InputError for what pyarrow raises about a file that is cut off, damaged or gone."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"cannot read {file}: {reason}; get or write the file again.") from error
