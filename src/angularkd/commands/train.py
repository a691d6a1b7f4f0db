"""The train command."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from lightning_fabric.loggers.logger import Logger

from angularkd.commands.report import reporting
from angularkd.config import TrainConfig
from angularkd.runs import Run
from angularkd.system.stopping import Stop
from angularkd.training import Modules, Reporter, run_training, taken_out


def train(*, loggers: Sequence[Logger] = (), **options: Any) -> Run:
    """Train or fine-tune a classifier.

    Args:
        loggers: of Lightning Fabric, to which the numbers of each epoch are logged, too.
        options: the fields of `angularkd.config.TrainConfig`, which are the flags of `angularkd train`. `model` may be
            a `torch.nn.Module` too, from images to logits, which is then trained in place.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    texts, modules = taken_out(options)
    return train_and_report(TrainConfig.from_options(**texts), modules=modules, loggers=loggers)


def train_and_report(
    config: TrainConfig,
    reporter: Reporter | None = None,
    modules: Modules = MappingProxyType({}),
    stop: Stop | None = None,
    loggers: Sequence[Logger] = (),
) -> Run:
    """Train, and leave a report of the finished run in its folder where that is asked for."""
    return run_training(config, reporter, modules, stop=stop, finished=reporting(config, reporter), loggers=loggers)
