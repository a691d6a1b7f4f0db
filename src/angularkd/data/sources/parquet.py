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

from angularkd.data.splits import EncodedStore, Source, labelled_splits, split_named
from angularkd.errors import InputError

CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class ImageColumn:
    """The images of a row group, field by field, which is read in half the time of a struct; null where the struct is."""

    folder: str
    bytes: pa.BinaryArray
    path: pa.StringArray | None

    @staticmethod
    def of(images: pa.StructArray, folder: Path) -> ImageColumn:
        fields = {field.name: values for field, values in zip(images.type, images.flatten(), strict=True)}
        return ImageColumn(str(folder), fields["bytes"], fields.get("path"))

    @property
    def nbytes(self) -> int:
        return int(self.bytes.nbytes)


class ParquetStore(EncodedStore):
    """Rows of several files, read a row group at a time; the groups read last stay in memory, up to CACHE_BYTES."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._groups: list[tuple[Path, int]] = []
        self._starts = [0]
        for file in self.files:
            metadata = pq.ParquetFile(file).metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group))
                self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._cache: OrderedDict[int, ImageColumn] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ParquetStore], tuple[list[Path]]]:
        return ParquetStore, (self.files,)  # locks and caches stay behind when a worker process gets its copy

    def __len__(self) -> int:
        return self._starts[-1]

    def encoded(self, row: int) -> tuple[bytes, str]:
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
                while len(self._cache) > 1 and sum(part.nbytes for part in self._cache.values()) > CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]


def open_parquet(folder: Path) -> Source:
    """Splits by the names of files (train-00000-of-00004.parquet) or of the folders they are in (train/0000.parquet).

    Raises InputError for a folder without such files, a file that cannot be read, other columns, other class names in
    another split, or labels outside the classes.
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
        seen = ", ".join([path.name for paths in found.values() for path in paths] + unnamed) or "no parquet files"
        raise InputError(
            f"{folder}: expected train*.parquet (and test*.parquet or validation*.parquet), found {seen}; "
            "rename the files by split."
        )
    notes = [f"passed over, since the name gives no split: {name}" for name in unnamed]
    return {split: found[split] for split in ("train", "val", "test") if split in found}, notes


def _class_names(files: list[Path]) -> tuple[str, ...] | None:
    """Class names in the metadata of the first file, None where there are none; checks the columns of every file."""
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
    """What pyarrow says of a file that is cut off, damaged or gone, as InputError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"cannot read {file}: {reason}; get or write the file again.") from error
