"""Files that are there whole or not at all: written beside their place, flushed to disk, renamed over it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from angularkd.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file in the same folder, flush it to disk, and rename it over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_writable(path: Path, parameter: str) -> None:
    """Check that a folder at `path` exists or can be made, and can be written to.

    Raises:
        InputError: where it cannot, asking for another with `parameter`.
    """
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError:
        reason = "is a file" if there.is_file() else "cannot be written to"
        raise InputError(f"{path} cannot hold results, for {there} {reason}: give another with `{parameter}`") from None


def check_file_writable(path: Path, parameter: str) -> None:
    """Check that a file at `path` can be written, over one that is there or anew.

    Raises:
        InputError: where it cannot, asking for another with `parameter`.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file with `{parameter}`")
    check_writable(path.parent, parameter)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a line of JSON for each row, all of them or none."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
