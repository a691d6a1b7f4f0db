"""What a run logs beside its own files: the numbers of each epoch, to TensorBoard or to whatever Lightning Fabric has a logger for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger

from angularkd.config import Recipe
from angularkd.runs import RunFolder
from angularkd.system.extras import import_extra
from angularkd.system.ranks import number
from angularkd.training.meter import TrainingMeter
from angularkd.training.plan import Plan
from angularkd.training.progress import Reporter

TENSORBOARD = "tensorboard"
"""The folder of its files in that of a run."""
OF_VALIDATION = "val_"
OF_THE_RUN = ("step", "lr", "images_per_second")


def check_loggers(config: Recipe) -> None:
    """Raise InputError where a logger is asked for whose library is not installed."""
    if config.tensorboard:
        import_extra("tensorboard", "tensorboard", "`tensorboard`")


def logged(reporter: Reporter, config: Recipe, folder: RunFolder, loggers: Sequence[Logger]) -> Reporter:
    """Return a reporter that also logs, where some logger is asked for; of several processes, the first logs alone."""
    if number() > 0 or (not config.tensorboard and not loggers):
        return reporter

    def opened() -> list[Logger]:
        own = [_tensorboard(folder.path)] if config.tensorboard else []
        return [*own, *loggers]

    return LoggingReporter(reporter, opened, config.model_dump(mode="json"))


def _tensorboard(folder: Path) -> Logger:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(folder, name=TENSORBOARD, version="")


class LoggingReporter:
    """A reporter that passes everything on, and logs the numbers of each epoch and of the test.

    Args:
        reporter: to whom everything is passed on.
        open_loggers: opens the loggers, after the first epoch: a run that trains nothing leaves nothing.
        options: of the run, which are logged as hyperparameters.
    """

    def __init__(
        self, reporter: Reporter, open_loggers: Callable[[], Sequence[Logger]], options: Mapping[str, Any]
    ) -> None:
        self._reporter = reporter
        self._open = open_loggers
        self._options = options
        self._loggers: Sequence[Logger] | None = None
        self._epoch = 0

    def log(self, text: str) -> None:
        """Pass a line on."""
        self._reporter.log(text)

    def plan(self, plan: Plan) -> None:
        """Pass on what will be done."""
        self._reporter.plan(plan)

    def begin(self, epochs: int, steps_an_epoch: int, first_epoch: int) -> None:
        """Pass on that training begins."""
        self._epoch = first_epoch
        self._reporter.begin(epochs, steps_an_epoch, first_epoch)

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Pass on that a step is done."""
        self._reporter.step(epoch, step, meter)

    def epoch(self, row: dict[str, Any]) -> None:
        """Log the numbers of the epoch, and pass them on."""
        self._epoch = row["epoch"]
        self._log({_tag(name): value for name, value in row.items() if name != "epoch"})
        self._reporter.epoch(row)

    def end(self) -> None:
        """Pass on that training ends."""
        self._reporter.end()

    def results(self, folder: Path, data: str, results: dict[str, Any]) -> None:
        """Log the metrics on the test images, end the loggers, and pass the results on."""
        for model, metrics in results["metrics"].items():
            self._log({f"test, {model}/{name}": value for name, value in metrics.items()})
        for logger in self._loggers or ():
            logger.finalize("success")
        self._reporter.results(folder, data, results)

    def _log(self, values: Mapping[str, Any]) -> None:
        if self._loggers is None:
            self._loggers = self._open()
            for logger in self._loggers:
                with suppress(NotImplementedError):  # some of Fabric's log none
                    logger.log_hyperparams(dict(self._options))
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for logger in self._loggers:
            logger.log_metrics(numbers, step=self._epoch)
            logger.save()


def _tag(name: str) -> str:
    """Return under what a number of an epoch is logged: validation/accuracy, run/lr, training/loss."""
    if name.startswith(OF_VALIDATION):
        return f"validation/{name.removeprefix(OF_VALIDATION)}"
    return f"{'run' if name in OF_THE_RUN else 'training'}/{name}"
