"""Intervals of a run as text: `500steps`, `10min`, `1epoch`."""

from __future__ import annotations

import re
from typing import NamedTuple

UNITS = {
    "steps": ("step", "steps"),
    "minutes": ("min", "minute", "minutes"),
    "epochs": ("epoch", "epochs"),
}
"""By unit, the words for it."""
INTERVAL = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
LONGEST = 1e9


class Interval(NamedTuple):
    """A part of a run.

    Attributes:
        length: how many units, above 0; whole but for minutes.
        unit: steps, minutes or epochs.
    """

    length: float
    unit: str


def parse_interval(text: str) -> Interval:
    """Return the interval that a text names.

    Raises:
        ValueError: for a text that names none, which pydantic turns into a message.
    """
    found = INTERVAL.fullmatch(text)
    unit = next((unit for unit, words in UNITS.items() if found is not None and found[2] in words), None)
    if found is None or unit is None:
        raise ValueError("must be a number of steps, minutes or epochs, such as 500steps, 10min or 1epoch")
    length = float(found[1])
    if not 0 < length <= LONGEST or (unit != "minutes" and length % 1):
        raise ValueError("must be above 0, and whole but for minutes, such as 500steps, 0.5min or 1epoch")
    return Interval(length, unit)
