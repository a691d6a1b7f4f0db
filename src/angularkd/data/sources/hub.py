"""Data sets of the Hugging Face hub, or any folder that its library `datasets` reads, with random access to their rows."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from angularkd.data.reading import read_image_file
from angularkd.data.sources.hub_names import check_names
from angularkd.data.split_names import split_called
from angularkd.data.splits import Source, labelled_splits
from angularkd.data.stores import EncodedStore
from angularkd.errors import InputError, nearest
from angularkd.system.logs import logging_from

OPTIONS = ("config", "image", "label")
LABEL_NAMES = ("label", "labels")


class HubStore(EncodedStore):
    """A store of the rows of a memory-mapped table with one column of encoded images."""

    def __init__(self, table: Any, column: str, where: str) -> None:
        self.table = table
        self.column = column
        self.where = where

    def __len__(self) -> int:
        return len(self.table)

    @property
    def files(self) -> Sequence[str | Path]:
        """Return the files of the table."""
        return [file["filename"] for file in self.table.cache_files]

    def name(self, row: int) -> str:
        """Return the row, the table and the path of an image."""
        return self._describe(row, self.table[row][self.column] or {})

    def _describe(self, row: int, value: Mapping[str, Any]) -> str:
        return f"row {row} of {self.where}, {value.get('path') or 'unnamed'}"

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return the bytes of an image, and its name. Raises InputError when they cannot be read."""
        value: dict[str, Any] = self.table[row][self.column] or {}
        name = self._describe(row, value)
        if value.get("bytes"):
            return value["bytes"], name
        return read_image_file(value.get("path") or "", name), name


def open_hub(argument: str) -> Source:
    """Open a data set of the hub, or a folder that the library reads.

    Columns are found by their types: the one Image, and the one ClassLabel (else the one column of integers). Where
    there are several, the one called label is taken, and without such a one they have to be named.

    Args:
        argument: NAME on the hub, or a folder; then perhaps `,config=NAME`, `,image=COLUMN` and `,label=COLUMN`.

    Raises:
        InputError: The library is missing, the data set cannot be had, or it has no such columns.
    """
    name, options = _read(argument)
    known, notes = _by_split(name, _load(name, options.get("config")))
    stores: dict[str, HubStore] = {}
    labels: dict[str, Int64[np.ndarray, " samples"]] = {}
    classes: set[tuple[str, ...] | None] = set()
    label_columns: set[str] = set()
    for split, table in known.items():
        image, label = _columns(name, table.features, options)
        undecoded = table.select_columns([image]).cast_column(image, _library().Image(decode=False))
        stores[split] = HubStore(undecoded, image, f"{name} {split}")
        labels[split] = _labels(name, split, table, label)
        names = getattr(table.features[label], "names", None)
        classes.add(tuple(names) if names else None)
        label_columns.add(label)
    if len(classes) > 1:
        raise InputError(f"hf:{name}: the splits name different classes; write them with one list of class names.")
    names = classes.pop()
    for column in label_columns:
        notes += check_names(f"hf:{name}", _files(name, options.get("config")), column, names)
    found, whole, label_notes = labelled_splits(f"hf:{name}", stores, labels, names)
    return Source(Path(name).name, found, whole, (*notes, *label_notes))


def _by_split(name: str, splits: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the tables of train, val and test, whatever they are called, and notes on those of other names."""
    called: dict[str, list[str]] = {}
    for split in splits:
        called.setdefault(split_called(split) or "", []).append(split)
    notes = [f"{split}: left out, it is not train, validation or test" for split in called.pop("", [])]
    for split, same in called.items():
        if len(same) > 1:
            raise InputError(
                f"hf:{name}: {same[0]} and {same[1]} both name the {split} split; keep one, or rename one."
            )
    if "train" not in called:
        raise InputError(f"hf:{name}: expected a split called train, found {', '.join(splits) or 'none'}.")
    return {split: splits[same[0]] for split, same in called.items()}, notes


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError("hf:NAME needs the library datasets: pip install 'angularkd[hf]'.") from error
    return datasets


def _read(argument: str) -> tuple[str, dict[str, str]]:
    name, *rest = argument.split(",")
    options = {key: value for key, _, value in (option.partition("=") for option in rest)}
    if not name:
        raise InputError("hf needs a name: write hf:OWNER/NAME, or hf:DIR for a folder.")
    for key, value in options.items():
        if key not in OPTIONS or not value:
            raise InputError(
                f"hf:{argument}: cannot read {key!r}: after the name come config=NAME, image=COLUMN and label=COLUMN."
                f"{nearest(key, OPTIONS)}"
            )
    return name, options


def _load(name: str, config: str | None) -> dict[str, Any]:
    """Load every split as an indexed table, downloaded and prepared once in the library's cache."""
    library = _library()
    path = Path(name).expanduser()
    local = path.exists()
    with _quiet(library, bars=not local and sys.stderr.isatty()):
        try:
            return dict(library.load_dataset(str(path) if local else name, config))
        except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
            cause = error.__cause__ if isinstance(error, library.exceptions.DatasetGenerationError) else None
            lines = str(cause or error).strip().splitlines()
            reason = " ".join(lines[0].split()).rstrip(".") if lines else type(error).__name__
            offline = " (offline: HF_HUB_OFFLINE is set)" if library.config.HF_HUB_OFFLINE and not local else ""
            raise InputError(
                f"hf:{name}: {reason}{offline}; check the name and the connection, or give a folder of its files."
            ) from error


def _files(name: str, config: str | None) -> list[str]:
    """Return the paths of the files that a data set is made of, or their addresses; none where they are not known offline."""
    path, library = Path(name).expanduser(), _library()
    with _quiet(library, bars=False):
        try:
            builder = library.load_dataset_builder(str(path) if path.exists() else name, config)
        except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError):
            return []
    return [str(file) for of_split in (builder.config.data_files or {}).values() for file in of_split]


@contextmanager
def _quiet(library: Any, bars: bool) -> Iterator[None]:
    """Silence the library's warnings inside, and its progress bars unless they are asked for."""
    had_bars = not library.are_progress_bars_disabled()
    if not bars:
        library.disable_progress_bars()
    try:
        with logging_from(logging.ERROR, "datasets", "huggingface_hub"):
            yield
    finally:
        if had_bars:
            library.enable_progress_bars()


def _columns(name: str, features: Mapping[str, Any], options: Mapping[str, str]) -> tuple[str, str]:
    library = _library()
    kinds = {
        "image": [column for column, kind in features.items() if isinstance(kind, library.Image)],
        "label": [column for column, kind in features.items() if isinstance(kind, library.ClassLabel)]
        or [column for column, kind in features.items() if "int" in str(getattr(kind, "dtype", ""))],
    }
    chosen = {}
    for role, fitting in kinds.items():
        named = [column for column in fitting if column in ("image", *LABEL_NAMES)]
        if role in options:
            fitting = [column for column in fitting if column == options[role]]
        elif len(fitting) > 1 and len(named) == 1:
            fitting = named
        if len(fitting) != 1:
            expected = {"image": "one column of images", "label": "one column of class labels"}[role]
            columns = ", ".join(f"{column}: {getattr(kind, 'dtype', kind)}" for column, kind in features.items())
            example = next(iter(fitting), "COLUMN")
            raise InputError(
                f"hf:{name}: expected {expected}, found {' and '.join(fitting) or 'none'} in ({columns}); choose one, as in "
                f"hf:{name},{role}={example}."
            )
        chosen[role] = fitting[0]
    return chosen["image"], chosen["label"]


def _labels(name: str, split: str, table: Any, column: str) -> Int64[np.ndarray, " samples"]:
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    if values.null_count:
        raise InputError(f"hf:{name}: {values.null_count} rows of {split} have no label; remove them or label them.")
    return values.to_numpy().astype(np.int64)
