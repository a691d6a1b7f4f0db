"""When checkpoints are written: after so many steps, minutes or epochs since the last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from angularkd.training.state import TrainingState

CLOCKS: Final[dict[str, Callable[[TrainingState], float]]] = {
    "steps": lambda state: state.step,
    "minutes": lambda state: time.monotonic() / 60,
    "epochs": lambda state: state.epoch,
}
"""By unit, what counts it."""


class Cadence:
    """Tells when a checkpoint is due.

    Args:
        count: how many units lie between two.
        unit: steps, minutes or epochs.
    """

    def __init__(self, count: float = 1, unit: str = "epochs") -> None:
        self.count = count
        self._clock = CLOCKS[unit]
        self._last = 0.0

    def restart(self, state: TrainingState) -> None:
        """Count from this state on, which is that of a checkpoint, or the first."""
        self._last = self._clock(state)

    def due(self, state: TrainingState) -> bool:
        """Return whether so much has been done since `restart` that a checkpoint is due."""
        return self._clock(state) - self._last >= self.count
