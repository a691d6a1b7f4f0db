"""What a run reports while it goes: the interface, and a reporter that says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from angularkd.training.meter import TrainingMeter
from angularkd.training.plan import Plan


class Reporter(Protocol):
    """Somebody to whom a run reports."""

    def log(self, text: str) -> None:
        """Take in a line of text."""
        ...

    def plan(self, plan: Plan) -> None:
        """Take in what will be done."""
        ...

    def begin(self, epochs: int, steps_an_epoch: int, first_epoch: int) -> None:
        """Take in that training begins; `first_epoch` epochs were done before."""
        ...

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Take in that an optimiser step is done; `step` counts from 1 within the epoch."""
        ...

    def epoch(self, row: dict[str, Any]) -> None:
        """Take in that an epoch is done, with its row of metrics.jsonl."""
        ...

    def end(self) -> None:
        """Take in that training ends, however it does."""
        ...

    def results(self, folder: Path, data: str, results: dict[str, Any]) -> None:
        """Take in the final metrics of a run on a data set, and its folder."""
        ...


class Silent:
    """A reporter that says nothing, for calls from Python."""

    def log(self, text: str) -> None:
        """Ignore the text."""

    def plan(self, plan: Plan) -> None:
        """Ignore the plan."""

    def begin(self, epochs: int, steps_an_epoch: int, first_epoch: int) -> None:
        """Ignore the beginning."""

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Ignore the step."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Ignore the epoch."""

    def end(self) -> None:
        """Ignore the end."""

    def results(self, folder: Path, data: str, results: dict[str, Any]) -> None:
        """Ignore the results."""


def duration(seconds: float) -> str:
    """Return seconds as 1 h 02 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
