"""How many classes a module tells apart that does not say so, and how many channels it takes: by running it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from angularkd.features import heads_of
from angularkd.models.usable import is_unbuilt
from angularkd.system.modes import undisturbed

PROBED_SIZES = (32, 224, 64, 28, 96, 128, 160, 256, 299, 384)
"""Heights and widths at which a module is tried, in this order, until it takes one."""


def count_outputs(module: nn.Module) -> int | None:
    """Return how many classes a module tells apart, 0 where it gives feature maps; None where no forward shows it.

    A module whose layers have no shapes yet is not run, since its first images settle them.
    """
    if is_unbuilt(module):
        return None
    for size in PROBED_SIZES:
        try:
            with undisturbed(module):
                output, _ = heads_of(module(torch.zeros(2, input_channels(module), size, size)))
        except Exception:  # it is the user's own code
            continue
        if not isinstance(output, Tensor) or output.ndim < 2:
            return None
        return int(output.shape[1]) if output.ndim == 2 else 0
    return None


def input_channels(module: nn.Module) -> int:
    """Return how many channels a module's first convolution takes; 3 where there is none to tell."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return 3 if first is None or first.groups > 1 else first.in_channels
