"""How many classes a module tells apart that does not say so, and how many channels it takes: by running it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from angularkd.features import Trace

Count = Callable[[str, nn.Module], int | None]
"""Gives how many classes the module of a SPEC tells apart, 0 where it gives feature maps; None where no forward shows it."""
PROBED_SIZES = (32, 224, 64, 28, 96, 128, 160, 256, 299, 384)
"""Heights and widths at which a module is tried, in this order, until it takes one."""


def outputs_of(trace: Trace) -> int | None:
    """Return how many classes a traced module tells apart, 0 where it gives feature maps; None where its output holds no logits."""
    shape = trace.output_shape
    if shape is None or len(shape) < 2:
        return None
    return shape[1] if len(shape) == 2 else 0


def input_channels(module: nn.Module) -> int:
    """Return how many channels a module's first convolution takes; 3 where there is none to tell."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return 3 if first is None or first.groups > 1 else first.in_channels
