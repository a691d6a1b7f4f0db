"""The listing of a split: what tells its images from others without decoding them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from angularkd.data.splits import Split
from angularkd.data.stores import ArrayStore, FiledStore


def listing(split: Split, times: bool = False) -> str:
    """Return a digest of which images a split has, in their order, with their labels.

    Of images in files it hashes names and sizes of the files, of others in memory their pixels. Names are those below the folder
    that all files are in: the same data by another path is the same.

    Args:
        split: the images.
        times: whether a file that was written since counts as another, whatever its size is.
    """
    digest = hashlib.blake2b(split.rows.tobytes(), digest_size=16)
    digest.update(split.labels.tobytes())
    if isinstance(split.store, ArrayStore):
        digest.update(split.store.pixels[split.rows].tobytes())
    elif isinstance(split.store, FiledStore):
        digest.update(_stamps(split.store.files, times).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _stamps(files: Sequence[str | Path], times: bool) -> str:
    """Return a line for each file: its name below their common folder, its size in bytes, and when it was written."""
    paths = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath([os.path.dirname(min(paths)), os.path.dirname(max(paths))]) if paths else ""
    return "\n".join(f"{path[len(folder) :]} {_stamp(path, times)}" for path in paths)


def _stamp(path: str, times: bool) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:  # whoever reads the image complains of it, or leaves it out
        return ()
    return (found.st_size, found.st_mtime_ns) if times else (found.st_size,)
