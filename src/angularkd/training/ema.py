"""The exponential moving average of a student's weights: smoother than the student, and often the better classifier."""

# Ours, by the rule of timm's ModelEmaV3 (tests compare the two bit for bit): importing timm takes seconds that runs of other models
# would pay, and torch's AveragedModel neither warms its decay up nor averages the statistics of batch normalisation.

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedStudent:
    """A copy of the student whose weights follow the student's, in evaluation mode and without gradients.

        average <- d * average + (1 - d) * student        d = min(decay, 1 - (1 + t)**(-2/3)) at update t = 0, 1, ...

    so the first update copies the student, and short runs forget their beginning; a decay of 0.999 is reached after
    31,600 updates. Buffers of floating point, which are the statistics of batch normalisation, are averaged as weights
    are; the others are copied. Rule and warm-up are those of timm's `ModelEmaV3` with `use_warmup=True`.

    Deliberately no nn.Module: a holder does not list the copy among its parameters, nor train it, nor save it twice.

    Args:
        student: whose weights are averaged.
        decay: between 0 and 1.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.student = student
        self.decay = decay
        self.updates = 0
        self.module = deepcopy(student).eval().requires_grad_(False)

    def update(self) -> None:
        """Move the average towards the student as it is now, after a step of the optimiser. It never waits for the device."""
        decay = min(self.decay, 1 - (1 + self.updates) ** (-2 / 3))
        pairs = list(zip(_tensors(self.module), _tensors(self.student), strict=True))
        weights = [(mine, new) for mine, new in pairs if mine.is_floating_point()]
        move: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move([mine for mine, _ in weights], [new for _, new in weights], self.updates)
        for mine, new in pairs:
            if not mine.is_floating_point():
                mine.copy_(new)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on bit for bit."""
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.updates = state["updates"]
        self.module.load_state_dict(state["module"])


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return every parameter and buffer once, however many layers share it."""
    return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
