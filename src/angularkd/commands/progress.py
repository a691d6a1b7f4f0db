"""A run on the console while it goes: a live bar in a terminal, a plain line an epoch elsewhere, tables before and after."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from angularkd.commands.summary import print_summary
from angularkd.commands.tables import print_metrics, print_plan
from angularkd.config import with_flags
from angularkd.training import Plan, TrainingMeter, duration

REFRESH_SECONDS = 0.5
"""Time between two readings of the loss terms, each of which waits for the device."""
BAR_REST = 24
"""Characters of the bar's line beside its description, the bar itself and the figures: percentage, time left, spaces."""


class ConsoleReporter:
    """A reporter that prints (`angularkd.training.Reporter`): images/s, the loss terms and the time left while a run goes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: _EpochBar | None = None

    def log(self, text: str) -> None:
        """Print a line."""
        self.console.print(with_flags(text), soft_wrap=True, highlight=False)

    def plan(self, plan: Plan) -> None:
        """Print the plan's tables."""
        print_plan(plan, self.console)

    def begin(self, epochs: int, steps_an_epoch: int, first_epoch: int) -> None:
        """Start the bar."""
        self._bar = _EpochBar(self.console, epochs, steps_an_epoch, first_epoch)

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Advance the bar."""
        assert self._bar is not None
        self._bar.step(epoch, step, meter)

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's means and what validation found, in one line."""
        assert self._bar is not None
        self._bar.epoch(row)

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def results(self, folder: Path, data: str, results: dict[str, Any]) -> None:
        """Print the final metrics, what they come to, and what to do next."""
        if results["metrics"]:
            print_metrics({"split": "test", "data": data, "notes": (), **results}, self.console)
        print_summary(folder, results, self.console)


class _EpochBar:
    """The bar of a run, and its line for each epoch.

    Args:
        console: where it is drawn.
        epochs: of the run.
        steps_an_epoch: optimiser steps of each.
        first_epoch: epochs done before, in a resumed run.
    """

    def __init__(self, console: Console, epochs: int, steps_an_epoch: int, first_epoch: int) -> None:
        self.console = console
        self.epochs = epochs
        self._started = time.perf_counter()
        self._first_epoch = first_epoch
        self._last_refresh = 0.0
        self._epoch_started: tuple[int, float] = (-1, 0.0)
        self._bar_width = min(24, console.width // 8)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=self._bar_width),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._steps_an_epoch = steps_an_epoch
        self._task = self._bar.add_task(
            f"epoch {first_epoch + 1}/{epochs}",
            total=epochs * steps_an_epoch,
            completed=first_epoch * steps_an_epoch,
            figures="",
        )
        self._bar.start()

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Advance the bar, and refresh its figures now and then."""
        now = time.perf_counter()
        if self._epoch_started[0] != epoch:
            self._epoch_started = (epoch, now)
        if not self.console.is_terminal or now - self._last_refresh < REFRESH_SECONDS:
            return
        self._last_refresh = now
        means = meter.compute()
        accuracy = means.pop("train_accuracy", 0.0)
        seconds = now - self._epoch_started[1]
        speed = [f"{meter.images / seconds:,.0f} images/s"] if seconds else []
        figures = [*speed, f"accuracy {accuracy:.1%}", *(f"{name} {value:.3f}" for name, value in means.items())]
        description = f"epoch {epoch + 1}/{self.epochs}"
        self._bar.update(
            self._task,
            completed=epoch * self._steps_an_epoch + step,
            description=description,
            figures=_as_many(figures, self.console.width - len(description) - self._bar_width - BAR_REST),
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        done = row["epoch"] - self._first_epoch
        left = (time.perf_counter() - self._started) / done * (self.epochs - row["epoch"])
        known = {"epoch", "step", "lr", "train_accuracy", "images_per_second"}
        terms = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in known and not k.startswith("val_"))
        self.console.print(
            f"epoch {row['epoch']}/{self.epochs}  {terms}  train {row['train_accuracy']:.2%}  "
            f"val {row['val_accuracy']:.2%}  lr {row['lr']:.4g}  {row['images_per_second']:,.0f} images/s  "
            f"{duration(left)} left",
            highlight=False,
            soft_wrap=True,
        )


def _as_many(figures: Sequence[str], room: int) -> str:
    """Return the first of some figures, as many as there is room for, so that none is cut."""
    lengths = itertools.accumulate(len(figure) + 2 for figure in figures)
    return "  ".join(figure for figure, length in zip(figures, lengths, strict=True) if length <= room)
