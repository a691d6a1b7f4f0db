"""The distill command."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from lightning_fabric.loggers.logger import Logger

from angularkd.commands.report import reporting
from angularkd.config import DistillConfig
from angularkd.runs import Run
from angularkd.system.stopping import Stop
from angularkd.training import Modules, Reporter, run_distillation, taken_out


def distill(*, loggers: Sequence[Logger] = (), **options: Any) -> Run:
    """Distil a teacher into a student.

    Args:
        loggers: of Lightning Fabric, to which the numbers of each epoch are logged, too.
        options: the fields of `angularkd.config.DistillConfig`, which are the flags of `angularkd distill`. `teacher`
            and `student` may be `torch.nn.Module`s too, from images to logits; the student is then trained in place.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    texts, modules = taken_out(options)
    return distill_and_report(DistillConfig.from_options(**texts), modules=modules, loggers=loggers)


def distill_and_report(
    config: DistillConfig,
    reporter: Reporter | None = None,
    modules: Modules = MappingProxyType({}),
    stop: Stop | None = None,
    loggers: Sequence[Logger] = (),
) -> Run:
    """Distil, and leave a report of the finished run in its folder where that is asked for."""
    return run_distillation(config, reporter, modules, stop=stop, finished=reporting(config, reporter), loggers=loggers)
