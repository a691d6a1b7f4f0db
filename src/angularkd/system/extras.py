"""Libraries that only some commands need: imported when they are used, and named with their remedy where they are not there."""

from __future__ import annotations

import importlib
from types import ModuleType

from angularkd.errors import InputError


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a library of an extra of this package.

    Args:
        module: the library's module.
        extra: the extra that installs it.
        what: what needs it, for the error.

    Raises:
        InputError: where it is not installed, with what installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{what} needs {module}: pip install 'angularkd[{extra}]'") from None
