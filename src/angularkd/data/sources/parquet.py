"""Parquet files in the Hugging Face layout: columns image {bytes, path} and label, class names in the metadata."""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from angularkd.data.split_names import files_by_split, passed_over
from angularkd.data.splits import Source, labelled_splits
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
        path = fields.get("path")
        is_text = path is not None and (pa.types.is_string(path.type) or pa.types.is_large_string(path.type))
        return ImageColumn(str(folder), fields["bytes"], path if is_text else None)

    def path_of(self, place: int) -> str | None:
        """Return where an image came from; nothing checks that a file holds text there."""
        path = self.path[place].as_buffer() if self.path is not None else None
        return None if path is None else path.to_pybytes().decode(errors="backslashreplace")


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
            with readable(file):
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
        name = f"row {row} of {column.folder}, {column.path_of(place) or 'unnamed'}"
        data = column.bytes[place].as_py()
        if not data:
            raise InputError(f"cannot decode {name}: it holds no bytes; write the images into the parquet file.")
        return data, name

    def _read_group(self, group: int) -> ImageColumn:
        with self._lock:
            if group not in self._cache:
                file, index = self._groups[group]
                with readable(file):
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
    every = [file for paths in files.values() for file in paths]
    names: dict[PurePath, tuple[str, ...] | None] = {file: class_names(file, _checked_schema(file)) for file in every}
    classes = common_class_names(str(folder), names)
    labels = {split: _labels(paths) for split, paths in files.items()}
    stores = {split: ParquetStore(paths) for split, paths in files.items()}
    classes, splits, label_notes = labelled_splits(str(folder), stores, labels, classes)
    return Source(folder.resolve().name, classes, splits, (*notes, *label_notes))


def _files_by_split(folder: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    found, unnamed = files_by_split(folder, (path for path in sorted(folder.rglob("*.parquet")) if path.is_file()))
    if "train" not in found:
        present = ", ".join(path.name for paths in (*found.values(), unnamed) for path in paths) or "no parquet files"
        raise InputError(
            f"{folder}: expected train*.parquet (and test*.parquet or validation*.parquet), found {present}; "
            "rename the files by split."
        )
    return found, passed_over(path.relative_to(folder).as_posix() for path in unnamed)


def class_names(file: Path | str, schema: pa.Schema, column: str = "label") -> tuple[str, ...] | None:
    """Return the class names that the `datasets` library wrote into a file's metadata; None where it has none.

    Raises:
        InputError: There is such metadata, but it is not what the library writes.
    """
    encoded = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(encoded or b"{}")
        for key in ("info", "features", column, "names"):
            found = found.get(key) or {}
        if not found:
            return None
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return tuple(found)
    except (ValueError, AttributeError, RecursionError):
        pass
    raise InputError(
        f"{file}: cannot read the class names of {column} in its metadata; write the file again with the datasets library, or "
        "without that metadata."
    )


def common_class_names(where: str, names: Mapping[PurePath, tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the class names that all files with any share.

    Raises:
        InputError: Two files name other classes, or the same in another order, so that labels mean different classes.
    """
    named = {file: found for file, found in names.items() if found is not None}
    first = next(iter(named), None)
    other = next((file for file, found in named.items() if first is not None and found != named[first]), None)
    if first is None or other is None:
        return None if first is None else named[first]
    how = "the same classes in another order" if set(named[first]) == set(named[other]) else "other classes"
    raise InputError(
        f"{where}: {other.name} names {how} than {first.name}; write all files with one list of class names."
    )


def _checked_schema(file: Path) -> pa.Schema:
    with readable(file):
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
        with readable(file):
            column = pq.ParquetFile(file).read(columns=["label"]).column("label")
        if column.null_count:
            raise InputError(f"{file}: {column.null_count} rows have no label; remove them or label them.")
        # not column.to_numpy(), which imports pandas where it is installed
        columns += [np.from_dlpack(chunk).astype(np.int64) for chunk in column.chunks]
    return np.concatenate(columns)


@contextmanager
def readable(file: Path | str) -> Iterator[None]:
    """Raise InputError for what pyarrow raises about a file that is cut off, damaged or gone."""
    try:
        yield
    except Exception as error:  # a malformed file raises anything: ArrowException, OSError, UnicodeDecodeError, ...
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"cannot read {file}: {reason}; get or write the file again.") from error
