"""Where a run stands: after an epoch, and within one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from angularkd.training.meter import TrainingMeter


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        history: the rows of metrics.jsonl.
        best_epoch, best_accuracy: of the best validation so far (the first of equals).
        best_weights: the student's weights after that epoch, on the host.
        seconds: that the run took up to the last checkpoint, in all its parts.
        within: what `EpochPart.state_dict` returned, of an epoch that is under way; None between epochs.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    within: dict[str, Any] | None = None


@dataclass
class EpochPart:
    """The part of an epoch that is done.

    Attributes:
        steps: optimiser steps of it, those that were left out included.
        seconds: that they took.
        lr: learning rate of the last of them.
        skipped: steps that were left out since their loss or gradient was not finite.
        meter: sums over the others.
    """

    steps: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    skipped: int = 0
    meter: TrainingMeter = field(default_factory=TrainingMeter)

    def state_dict(self) -> dict[str, Any]:
        """Return it as numbers and tensors."""
        return {**vars(self), "meter": self.meter.state_dict()}

    @staticmethod
    def of(state: TrainingState) -> EpochPart:
        """Return the part of the state's epoch that is done."""
        if state.within is None:
            return EpochPart()
        meter = TrainingMeter()
        meter.load_state_dict(state.within["meter"])
        return EpochPart(**{**state.within, "meter": meter})
