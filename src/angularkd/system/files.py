"""Files that are there whole or not at all: written beside their place, flushed to disk, renamed over it. Devices are written through."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from angularkd.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], Any], keep: Path | None = None) -> None:
    """Let `write` fill a temporary file in the same folder, flush it to disk, and rename it over `path`.

    A link stays, and what it leads to is written. What is no regular file, a pipe or a device, is there to be written through; so is
    a file that standard output or error goes to (/dev/stdout), which would go on in a file without a name.

    Args:
        path: the file.
        write: fills the file whose path it is given.
        keep: where what was at `path` before is kept, in the same folder; None to replace it.

    Raises:
        InputError: where a folder is in the file's place.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a file is to be written there: remove it")
    if _passes_on(path):
        _write_through(path, write)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def folders_made(path: Path) -> Iterator[None]:
    """Make a folder and those above it; after an error inside, remove those of them that were made here, if they are empty."""
    made = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a new one, flush its files to disk and give it that name afterwards; after an error, remove it."""
    path = path.absolute()
    with folders_made(path.parent):
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
        try:
            yield hidden
            for file in (file for file in hidden.rglob("*") if file.is_file()):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            hidden.chmod(0o777 & ~_umask())
            hidden.rename(path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the deepest first, until one is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def reserve_file(path: Path, size_bytes: int) -> None:
    """Make a file of zeros whose room on the disk is reserved, where the system can do that.

    Raises:
        OSError: where the disk has no room for it.
    """
    with path.open("ab") as file:
        reserve = getattr(os, "posix_fallocate", None)
        try:
            if reserve is not None and size_bytes:
                reserve(file.fileno(), 0, size_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        file.truncate(size_bytes)


def remove_temporary(path: Path) -> None:
    """Remove what writers of `path` that were killed have left beside it; nobody may be writing it."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*"):
        stale.unlink(missing_ok=True)


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
    if not _passes_on(path):
        check_writable(Path(os.path.realpath(path)).parent, parameter)
    elif not os.access(path, os.W_OK):
        raise InputError(f"{path} cannot be written to: give another with `{parameter}`")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a line of JSON for each row, all of them or none."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _passes_on(path: Path) -> bool:
    """Return whether what is written there goes on to somebody else."""
    try:
        there = path.stat()
    except OSError:
        return False
    return not (stat.S_ISREG(there.st_mode) or stat.S_ISDIR(there.st_mode)) or _open_stream(there) is not None


def _open_stream(there: os.stat_result) -> int | None:
    """Return the standard stream, 1 or 2, that goes to a file."""
    for stream in (1, 2):
        with suppress(OSError):
            if os.path.samestat(there, os.fstat(stream)):
                return stream
    return None


def _write_through(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, and copy it to where `path` leads."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        write(whole)
        stream = _open_stream(path.stat())
        if sys.stdout is not None:
            sys.stdout.flush()
        with (
            whole.open("rb") as read,
            open(os.dup(stream) if stream is not None else path, "wb") as through,
        ):
            shutil.copyfileobj(read, through)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
