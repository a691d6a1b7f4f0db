"""Means of a training epoch, added up on the device: no step waits for them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.system.ranks import gather, together
from angularkd.types import Distilled


class TrainingMeter:
    """Means over an epoch of the total loss, each loss term and the training accuracy. They are added up on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.images = 0

    def update(self, out: Distilled, labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]) -> None:
        """Add a batch.

        Args:
            out: what its losses gave.
            labels: classes, or soft labels, which count as the class of their largest share.
        """
        count = len(labels)
        classes = labels.argmax(dim=1) if labels.ndim == 2 else labels
        hits = (out.student_logits.detach().argmax(dim=1) == classes).sum()
        values = {name: value.detach() * count for name, value in {"loss": out.total, **out.terms}.items()}
        for name, value in {**values, "train_accuracy": hits.float()}.items():
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
        self.images += count

    def compute(self) -> dict[str, float]:
        """Return the means so far, by name; reading them waits for the device."""
        names = list(self._sums)
        values = torch.stack([self._sums[name].float() for name in names]).tolist() if names else []
        return {name: value / self.images for name, value in zip(names, values, strict=True)}

    def over_processes(self) -> TrainingMeter:
        """Return the sums of all processes of the run, each of which has its part of every batch."""
        parts = gather(self.state_dict()) if together() else []
        if not parts:
            return self
        whole = TrainingMeter()
        whole.images = sum(part["images"] for part in parts)
        whole._sums = {name: torch.stack([part["sums"][name] for part in parts]).sum(dim=0) for name in self._sums}
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, on the host, and the number of images."""
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self._sums, self.images = dict(state["sums"]), state["images"]
