"""A metric: two pure functions, what they need, and how their number reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from angularkd.metrics.observation import Observation


def mean_over_images(total: Tensor, images: int) -> float:
    """Return the mean of what was added up over the images.

    Args:
        total: sum over all images, of one element.
        images: their number.
    """
    return float(total) / images


@dataclass(frozen=True)
class Metric:
    """A row of the table METRICS.

    Attributes:
        summary: what the metric is, in a few words.
        needs: the signals that `sums` uses, names among SIGNALS; nothing else is computed for it.
        sums: returns a tensor for one batch. The tensors of all batches are added up on the device, so they have one shape.
        better: whether a higher or a lower value is better.
        unit: the unit of the number as it is printed: "%", "nats", or "" where it has none.
        format: the format specification by which the number is printed, such as ".2%".
        value: returns the metric from the added tensors and the number of images, at the end.
        least_classes: the number of classes from which on the metric says something.
    """

    summary: str
    needs: tuple[str, ...]
    sums: Callable[[Observation], Tensor]
    better: Literal["higher", "lower"]
    unit: str = ""
    format: str = ".4f"
    value: Callable[[Tensor, int], float] = mean_over_images
    least_classes: int = 1
