"""The identity of a run: the options that must be equal for a resumption to be of the same run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from angularkd.errors import InputError

MAY_DIFFER = (
    *("out", "resume", "device", "workers", "compile", "insist", "trust", "baseline", "report", "tensorboard"),
    *("checkpoint_every", "on_nonfinite", "devices"),
)
"""Options in which a run and its resumption may differ."""
SINCE = {"accumulate": 1, "sync_batchnorm": False, "lr_scaling": "none", "cache_maps": "float16"}
"""Options that runs of older versions do not name, and what they did."""


def identity_of(command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a run from another: its command, and its options but for those in MAY_DIFFER."""
    return {"command": command, **{name: value for name, value in options.items() if name not in MAY_DIFFER}}


def check_identity(folder: object, stored: Mapping[str, Any] | None, current: Mapping[str, Any]) -> None:
    """Check that a run in a folder is the one that is to be resumed.

    Args:
        folder: of the run, for the message.
        stored: the identity of the run there, None where it cannot be read.
        current: the identity of the run that would go on.

    Raises:
        InputError: where they differ, naming the options in which they do.
    """
    differing = [
        name for name, value in current.items() if stored is None or stored.get(name, SINCE.get(name)) != value
    ]
    if "command" in differing:
        differing = ["command"]
    if differing:
        raise InputError(
            f"the run in {folder} was started with other options ({', '.join(differing)}): "
            "resume with the same options (its config.yaml), or give another `out`"
        )


def check_unchanged(folder: object, stored: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Check that what the options of a run name is still what it was when the run was started.

    Args:
        folder: of the run, for the message.
        stored: fingerprints then, by what a message calls the thing.
        current: fingerprints now.

    Raises:
        InputError: where they differ, naming what changed.
    """
    changed = [name for name, value in current.items() if stored.get(name) != value]
    if changed:
        raise InputError(
            f"{' and '.join(changed)} changed since the run in {folder} was started: resume with what it was started with, or give "
            "another `out`"
        )
