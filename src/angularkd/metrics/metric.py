"""A metric: two pure functions, what they need, and how their result reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from angularkd.metrics.observation import Observation

Sums = Callable[[Observation], Tensor]
"""From the signals of one batch to the sum over its images of whatever a metric averages, or to a row an image."""


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
        sums: returns a tensor for one batch; rows that have the same function share what it returns. The tensors of all batches are
            added up on the device, so they have one shape.
        better: whether a higher or a lower value is better; None for what is no single number.
        unit: the unit of the number, or of each number, as it is printed: "%", "nats", "°", or "" where it has none.
        format: the format specification by which a number is printed, such as ".2%".
        value: returns the metric from the added tensors and the number of images, at the end: a number, or lists and dictionaries of
            them that JSON holds.
        least_classes: the number of classes from which on the metric says something.
        most_classes: the number of classes up to which it can be held in memory and read.
        per_image: whether `sums` returns a row an image instead, and these are joined rather than added up.
    """

    summary: str
    needs: tuple[str, ...]
    sums: Sums
    better: Literal["higher", "lower"] | None
    unit: str = ""
    format: str = ".4f"
    value: Callable[[Tensor, int], Any] = mean_over_images
    least_classes: int = 1
    most_classes: float = math.inf
    per_image: bool = False

    @property
    def is_number(self) -> bool:
        """Return whether its value is a single number."""
        return self.better is not None
