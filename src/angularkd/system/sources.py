"""The code behind classes: the files that are one's own by their content, installed packages by their version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

INSTALLED = ("site-packages", "dist-packages")
"""Folders of packages that their version stands for."""


def code_of(classes: Iterable[type], files: Iterable[Path] = ()) -> dict[str, str]:
    """Return a digest of each own file that classes depend on, by its path, and the version of each package, by its name.

    Followed are the bases of a class, and what its own files import by name, as long as these are own files too.

    Args:
        classes: of modules, say.
        files: more own files.
    """
    found = {str(file.resolve()): _digest(file) for file in files}
    waiting: list[Any] = list(dict.fromkeys(base for each in classes for base in each.__mro__))
    seen: set[int] = set()
    while waiting:
        known = waiting.pop()
        names = _namespace(known)
        file = names.get("__file__") if names is not None else None
        if names is None or file is None or id(names) in seen:
            continue
        seen.add(id(names))
        package = str(names.get("__name__", "")).partition(".")[0]
        if any(part in INSTALLED for part in Path(file).parts):
            found[package] = _version(package)
        elif not Path(file).is_relative_to(sysconfig.get_path("stdlib")) and Path(file).is_file():
            found[str(Path(file).resolve())] = _digest(Path(file))
            waiting += _imported(names)
    return found


def _imported(names: dict[str, Any]) -> Iterator[Any]:
    """Yield the modules, classes and functions that a module's names stand for, and the bases of the classes."""
    for value in list(names.values()):
        if isinstance(value, type):
            yield from value.__mro__
        elif isinstance(value, ModuleType | FunctionType):
            yield value


def _namespace(known: Any) -> dict[str, Any] | None:
    """Return the names of the module in which a class or a function is written, or of the module itself."""
    if isinstance(known, ModuleType):
        return vars(known)
    if isinstance(known, FunctionType):
        return inspect.unwrap(known).__globals__ if isinstance(inspect.unwrap(known), FunctionType) else None
    # the file of a class is known by its functions, also where it is no imported module
    for value in vars(known).values():
        if isinstance(value, FunctionType) and value.__module__ == known.__module__:
            return value.__globals__
    module = sys.modules.get(known.__module__)
    return vars(module) if module is not None else None


def _version(package: str) -> str:
    version = getattr(sys.modules.get(package), "__version__", None)
    if version is not None:
        return str(version)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
