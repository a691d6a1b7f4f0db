"""What is the matter with a teacher whose logits are not those of the data's classes: in another order, or no logits at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.errors import InputError

CLEARLY_BETTER = 0.1
"""Share of images that another order of the classes must get right beyond the order as it is, to be reported."""
STANDARD_ERRORS = 3
"""By how many standard errors those that it gains must exceed those that it loses, for few images let any order look better."""


def check_finite(logits: Float[Tensor, "samples classes"], images: str) -> None:
    """Check that a teacher's logits are numbers.

    Args:
        logits: of some images.
        images: which, in a word.

    Raises:
        InputError: where some are NaN or infinite.
    """
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(
            f"the teacher gives NaN or infinite logits for {broken:,} of {len(logits):,} {images} images: check its weights and its "
            "normalization, and whether it needs `precision=32-true`"
        )


def notes_on_outputs(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], classes: Sequence[str]
) -> list[str]:
    """Return notes on outputs that are probabilities, and on classes that seem to be in another order.

    An order is found on one half of the images and judged on the other.

    Args:
        logits: the teacher's, of validation images.
        labels: their classes.
        classes: names, in the data's order.
    """
    notes = []
    probabilities = bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < 1e-3).all())
    if probabilities and logits.shape[1] > 1:
        notes.append(
            "the teacher gives probabilities, not logits: a softmax is inside, behind which all classes look alike to a temperature. "
            "Leave it out of its forward"
        )
    order = _better_order(logits.argmax(dim=1), labels, len(classes))
    if order is not None:
        right = order[logits.argmax(dim=1)] == labels
        moved = next(k for k, place in enumerate(order.tolist()) if place != k)
        notes.append(
            f"the teacher's classes seem to be in another order{_named(order, classes)}: with its output {moved} as "
            f"'{classes[int(order[moved])]}' and so on {float(right.float().mean()):.1%} of the validation images are right. Say which is "
            "which with `teacher_classes`"
        )
    return notes


def _better_order(predicted: Tensor, labels: Tensor, count: int) -> Int[Tensor, " classes"] | None:
    """Return for each output the class that it stands for, where another order than theirs is clearly better; else None."""
    from scipy.optimize import linear_sum_assignment  # a tenth of a second

    found, judged = slice(0, None, 2), slice(1, None, 2)
    times = np.zeros((count, count), dtype=np.int64)
    np.add.at(times, (predicted[found].numpy(), labels[found].numpy()), 1)
    times = 2 * times + np.eye(count, dtype=np.int64)  # where nothing speaks for another, an output is its own class
    order = torch.from_numpy(linear_sum_assignment(-times)[1])
    now, then = predicted[judged] == labels[judged], order[predicted[judged]] == labels[judged]
    gained, lost = int((then & ~now).sum()), int((now & ~then).sum())
    enough = max(CLEARLY_BETTER * len(now), STANDARD_ERRORS * math.sqrt(gained + lost))
    return order if gained - lost > enough else None


def _named(order: Tensor, classes: Sequence[str]) -> str:
    """Return how names are sorted in an order, where that is a usual way."""
    names = [classes[place] for place in order.tolist()]
    ways: dict[str, Callable[[str], Any]] = {"by number, 2 before 10": _natural, "as text, 10 before 2": str}
    return next((f" ({way})" for way, key in ways.items() if names == sorted(classes, key=key)), "")


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name) if part]
