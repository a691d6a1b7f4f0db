"""The exceptions for input that cannot be used: each says in one line what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_REPR = 80
"""Characters of a value in a message."""


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


def short_repr(value: Any) -> str:
    """Return a value as a message shows it: as Python writes it, without its middle where that is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a number of {type(value).__name__} with thousands of digits"
    return text if len(text) <= LONGEST_REPR else f"{text[: LONGEST_REPR // 2]}...{text[-LONGEST_REPR // 4 :]}"
