"""What is seen of a run while it goes: a live bar in a terminal, a plain line an epoch elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from angularkd.metrics.classification import TrainingMeter

REFRESH_SECONDS = 0.5
"""Time between two readings of the loss terms, each of which waits for the device."""


class Progressor:
    """Reports a run to a console: images/s, the loss terms and the time left.

    Args:
        first_epoch: epochs done before, in a resumed run.
    """

    def __init__(self, console: Console, epochs: int, steps_an_epoch: int, first_epoch: int = 0) -> None:
        self.console = console
        self.epochs = epochs
        self._started = time.perf_counter()
        self._first_epoch = first_epoch
        self._last_refresh = 0.0
        self._epoch_started: tuple[int, float] = (-1, 0.0)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
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

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Advance the bar; refresh its figures now and then."""
        now = time.perf_counter()
        if self._epoch_started[0] != epoch:
            self._epoch_started = (epoch, now)
        if not self.console.is_terminal or now - self._last_refresh < REFRESH_SECONDS:
            return
        self._last_refresh = now
        means = meter.compute()
        accuracy = means.pop("train_accuracy")
        terms = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        speed = meter.images / max(now - self._epoch_started[1], 1e-9)
        figures = f"{speed:,.0f} images/s  {terms}  accuracy {accuracy:.1%}"
        self._bar.update(
            self._task,
            completed=epoch * self._steps_an_epoch + step,
            description=f"epoch {epoch + 1}/{self.epochs}",
            figures=figures,
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """One line: the epoch's means and what validation found."""
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


def duration(seconds: float) -> str:
    """Seconds as 1 h 02 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
