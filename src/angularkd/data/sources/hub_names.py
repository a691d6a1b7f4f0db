"""The class names in the files of a data set that the library `datasets` reads: it takes those of the first file for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from angularkd.data.sources.parquet import class_names, common_class_names, readable
from angularkd.errors import InputError

Schema = Callable[[Any], pa.Schema]
SCHEMAS: Mapping[str, Schema] = {
    ".parquet": pq.read_schema,
    ".arrow": lambda opened: pa.ipc.open_stream(opened).schema,
}
"""By a file's ending: what reads its schema, which is a few kilobytes of it."""
AT_ONCE = 16
"""Remote files that are opened at the same time, since each answers after a while."""


def check_names(where: str, files: Sequence[str], column: str, used: Sequence[str] | None) -> list[str]:
    """Check that all files name the same classes in one order, wherever they are.

    Args:
        where: What an error calls the data.
        files: Their paths, or addresses of any file system that fsspec knows, as hf://datasets/....
        column: That of the labels.
        used: The names that the library gives the classes, from a file or a description of its own.

    Returns:
        A note where files cannot be reached any more, as without a connection.

    Raises:
        InputError: Two files name other classes, or the same in another order, or a file in another order than those used.
    """
    known = [file for file in files if PurePosixPath(file).suffix in SCHEMAS]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        schemas = dict(zip(known, threads.map(_schema, known), strict=True))
    read = {file: schema for file, schema in schemas.items() if schema is not None}
    names: dict[PurePath, tuple[str, ...] | None] = {
        PurePosixPath(file): class_names(file, schema, column) for file, schema in read.items()
    }
    named = common_class_names(where, names)
    if named is not None and used is not None and list(named) != list(used) and set(named) == set(used):
        raise InputError(
            f"{where}: its description names the same classes in another order than its files do; write both with one list of class "
            "names."
        )
    missing = len(known) - len(read)
    if missing or not files:
        which = f"{missing} of {len(known)}" if missing else "its"
        return [f"{where}: the class names in {which} files cannot be compared, for they are out of reach"]
    return []


def _schema(file: str) -> pa.Schema | None:
    """Return the schema of a file; None of a remote one that cannot be reached."""
    import fsspec  # type: ignore[import-untyped]

    remote = "://" in file
    try:
        with fsspec.open(file, "rb") as opened, readable(file):
            return SCHEMAS[PurePosixPath(file).suffix](opened)
    except InputError:
        raise
    except Exception as error:  # whatever a connection may fail with
        if remote:
            return None
        raise InputError(f"cannot read {file}: {error}; get or write the file again.") from error
