"""Features before the activation, as a form in which losses ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from angularkd.types import Source


@dataclass(frozen=True)
class PreActivation:
    """Whole features [batch, channel, height, width] from before the last activation of a stage (`Stage.before_activation`)."""

    source: ClassVar[Source] = "before activation"
    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, features: Tensor) -> Tensor:
        """Return the features as they are."""
        return features
