"""The exceptions for input that cannot be used: each says in one line what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An error about something that the user gave. The message is one line: what was expected, what came, what to do."""


class StageError(InputError):
    """An error about one stage; whoever knows the stages' names may add them.

    Args:
        stage: its position among the paired stages.
        reason: what does not fit.
    """

    def __init__(self, stage: int, reason: str) -> None:
        super().__init__(f"stage {stage}: {reason}")
        self.stage = stage
        self.reason = reason


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a phrase to end an error with: the names in `known` most like `name`; empty when nothing is alike."""
    matches = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
