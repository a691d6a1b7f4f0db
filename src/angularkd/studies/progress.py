"""What a study reports while it goes: the interface, and a reporter that says nothing."""

from __future__ import annotations

from typing import Protocol

from angularkd.studies.lines import Line


class StudyReporter(Protocol):
    """Somebody to whom a study reports."""

    def begin(self, done: int, total: int) -> None:
        """Take in how many cells there are, and how many of them are done already."""
        ...

    def cell(self, line: Line, done: int, total: int, seconds_left: float) -> None:
        """Take in that a cell is done, or has failed; how many are done, of how many, and how long the others may take."""
        ...

    def end(self) -> None:
        """Take in that no more is run, however that comes."""
        ...


class SilentStudy:
    """A reporter that says nothing."""

    def begin(self, done: int, total: int) -> None:
        """Ignore the beginning."""

    def cell(self, line: Line, done: int, total: int, seconds_left: float) -> None:
        """Ignore the cell."""

    def end(self) -> None:
        """Ignore the end."""
