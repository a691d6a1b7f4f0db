"""A distiller in one of several processes, each of which computes its part of every batch: what keeps all of them equal."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from angularkd.distillation import Distiller
from angularkd.system import ranks
from angularkd.training.ema import AveragedStudent
from angularkd.types import Distilled


class Replica(nn.Module):
    """A distiller of whose outputs the loss alone has a gradient, so that DistributedDataParallel knows which parameters get one.

    Args:
        distiller: equal in all processes.
    """

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, *batch: Any) -> Distilled:
        """Return what the distiller gives for this process's part of a batch."""
        out: Distilled = self.distiller(*batch)
        terms = {name: term.detach() for name, term in out.terms.items()}
        return Distilled(out.total, terms, out.student_logits.detach())

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let weights that have a schedule follow it."""
        self.distiller.set_epoch(epoch, epochs)


def average_statistics(module: nn.Module) -> None:
    """Let batch normalisation's statistics, of which each process has those of its images, be their means over the processes."""
    if ranks.together():
        parts = (part for part in module.modules() if isinstance(part, _NormBase) and part.training)
        statistics = (value for part in parts for value in (part.running_mean, part.running_var) if value is not None)
        ranks.average([value for value in statistics if value.is_floating_point()])


def share_buffers(distiller: Distiller, average: AveragedStudent | None) -> None:
    """Let whatever else a student changes in its forwards be as it is in the first process.

    Losses that remember samples have given all processes the same already.
    """
    if ranks.together():
        modules = (distiller.student, *((average.module,) if average is not None else ()))
        ranks.share(buffer for module in modules for buffer in module.buffers())
