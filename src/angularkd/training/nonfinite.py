"""Steps whose loss or gradient is not finite: noticed at once, or, where reading a number waits for a device, some steps later.

A GPU is asked now and then. Until then it leaves the optimiser's steps out by itself (`found_inf` of fused optimisers), so that the
weights are those of the first such step when it is found.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from angularkd.system.ranks import any_of, gather

CHECK_EVERY = 50
"""Steps between two readings where reading waits for the device."""
MOST_IN_A_ROW = 20
"""Steps in a row that are left out at most."""


@dataclass(frozen=True)
class StepRecord:
    """A step of the optimiser, and the images it was made of.

    Attributes:
        epoch: epochs done before it.
        step: steps of the run done before it, plus one.
        batch: the number, in its epoch, of its first batch.
        batches: how many batches it is made of.
        indices: the rows of their images in the training split.
        view: the augmentation; None where images are mixed.
        terms: the losses that were not finite, as far as that was read.
    """

    epoch: int
    step: int
    batch: int
    batches: int
    indices: Sequence[Tensor]
    view: int | None
    terms: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**vars(self), "indices": torch.cat(list(self.indices)).tolist(), "terms": list(self.terms)}

    def over_processes(self) -> StepRecord:
        """Return the record of the whole step, of which each process of the run has its part of every batch."""
        parts = gather((self.indices, self.terms))
        indices = [torch.cat(batch) for batch in zip(*(part for part, _ in parts), strict=True)]
        terms = dict.fromkeys(itertools.chain.from_iterable(names for _, names in parts))
        return replace(self, indices=indices, terms=tuple(terms)) if len(parts) > 1 else self


class NonfiniteGuard:
    """Finds the steps that must not be taken.

    Args:
        module: whose gradients are looked at.
        optimizer: which takes the steps.
        device: of both.
        skip: whether such steps are left out and training goes on.
        scaled: whether gradients are those of a scaled loss, whose scaler leaves out what overflows: then losses alone are looked at.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, device: torch.device, *, skip: bool = False, scaled: bool = False
    ) -> None:
        self.skip = skip
        self._module, self._gradients = module, not scaled
        self._at_once = device.type == "cpu" or skip
        self._optimizer: Any = getattr(optimizer, "optimizer", optimizer)
        self._recent: deque[StepRecord] = deque(maxlen=CHECK_EVERY)
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._in_a_row = 0
        self._kept: list[Tensor] = []

    def begin(self) -> None:
        """Prepare for a step, which may be left out: keep what a forward changes."""
        if self.skip:
            self._kept = [buffer.clone() for buffer in self._module.buffers()]

    def found(self, record: StepRecord, totals: Sequence[Tensor]) -> bool:
        """Return whether a step is known not to be finite, and must not be taken.

        Args:
            record: of the step.
            totals: the losses of its batches; their gradients are there.
        """
        parts = [total.detach() for total in totals]
        gradients = [parameter.grad for parameter in self._module.parameters() if parameter.grad is not None]
        gradients = [gradient for gradient in gradients if gradient.numel() and gradient.layout == torch.strided]
        if self._gradients and gradients:
            parts += torch._foreach_norm(gradients, float("inf"))
        widest = functools.reduce(torch.promote_types, {part.dtype for part in parts})
        bad = any_of(~torch.stack([part.to(widest) for part in parts]).isfinite().all())
        if self._at_once:
            found = bool(bad)
            self._in_a_row = self._in_a_row + 1 if found else 0
            return found
        self._recent.append(record)
        self._bad = self._bad | bad
        self._first_bad = torch.where((self._first_bad < 0) & bad, record.step, self._first_bad)
        if self._gradients:
            self._optimizer.found_inf = self._bad.float()
        return False

    @property
    def streak(self) -> int:
        """Return how many steps in a row were not finite, the last included."""
        return self._in_a_row

    def put_back(self) -> None:
        """Put back what the forwards of a step that is left out have changed."""
        with torch.no_grad():
            for buffer, kept in zip(self._module.buffers(), self._kept, strict=True):
                buffer.copy_(kept)

    def due(self, step: int) -> bool:
        """Return whether it is time to `read`, after so many steps of the run."""
        return not self._at_once and step % CHECK_EVERY == 0

    def read(self) -> StepRecord | None:
        """Return the first step that was not finite, which is known once the device is asked; None where all were."""
        if self._at_once or not bool(self._bad):
            return None
        first = int(self._first_bad)
        return next((record for record in self._recent if record.step == first), self._recent[0])
