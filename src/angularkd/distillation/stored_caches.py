"""The caches in a folder, described by their own files: no teacher and no images are opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angularkd.distillation.cache_fields import Field
from angularkd.distillation.teacher_cache import ABOUT, FORMAT, About, TeacherCache
from angularkd.errors import InputError


@dataclass(frozen=True)
class StoredField:
    """What a cache stores of each image, or one part of it.

    Attributes:
        size_bytes: once it is full.
        dtype: the type that it is stored in.
        filled: the share of images in views that it is there for.
    """

    name: str
    shape: tuple[int, ...]
    size_bytes: int
    filled: float
    dtype: str


@dataclass(frozen=True)
class StoredCache:
    """A cache on disk.

    Attributes:
        about: what its answers depend on; None where that cannot be read, or is of another version's format.
        problem: why it is of no use; None where it is.
    """

    folder: Path
    about: About | None
    fields: tuple[StoredField, ...] = ()
    problem: str | None = None


def stored_caches(folder: Path) -> list[StoredCache]:
    """Return the caches in a folder, or that which the folder itself is.

    Raises:
        InputError: where there are none.
    """
    folders = [folder] if (folder / ABOUT).is_file() else sorted(file.parent for file in folder.glob(f"*/{ABOUT}"))
    if not folders:
        what = "holds no teacher cache" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder} {what}: name the folder that `cache` of a run names")
    return [_described(one) for one in folders]


def _described(folder: Path) -> StoredCache:
    try:
        stored = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if stored.pop("format", None) != FORMAT:
            return StoredCache(folder, None, problem="of another version of angularkd, which is not read: remove it")
        about = About(**stored)
        fields = [
            _field(json.loads(file.read_text(encoding="utf-8")))
            for file in sorted(folder.glob("*.json"))
            if file.name != ABOUT
        ]
        if about.key != folder.name:
            return StoredCache(folder, about, problem=f"renamed from {about.key}, under which name it would be found")
        one_by_one = [(field, TeacherCache(folder.parent, about, [field])) for field in fields]
        found = [
            StoredField(field.name, field.shape, cache.size_bytes, cache.filled, field.dtype)
            for field, cache in one_by_one
        ]
    except InputError as error:
        return StoredCache(folder, None, problem=str(error))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return StoredCache(folder, None, problem="its files cannot be read: remove it, and it is filled anew")
    return StoredCache(folder, about, tuple(found))


def _field(stored: Mapping[str, Any]) -> Field:
    return Field(**{**stored, "shape": tuple(stored["shape"])})
