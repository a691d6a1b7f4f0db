"""What one batch tells about a run before it starts: each loss's share of the gradient, and how fast steps are."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from angularkd.distillation import Distiller
from angularkd.errors import InputError
from angularkd.system.modes import restored
from angularkd.types import Batch

OVERWEIGHT = 0.95
"""Share of the first gradient from which on a loss is called overweight."""
RUNAWAY = 0.99
"""Share of the first gradient from which on a loss that is not one of logits leaves the labels no say: students end at chance."""


def gradient_shares(distiller: Distiller, batch: Batch) -> dict[str, float]:
    """Return each term's share of the gradient: its norm over the sum of the norms. The student is left as it was."""
    norms = distiller.gradient_norms(batch.images, batch.labels, batch.indices)
    total = sum(norms.values()) or 1.0
    return {name: norm / total for name, norm in norms.items()}


def balance_notes(shares: Mapping[str, float], weights: Mapping[str, float], on_logits: Collection[str]) -> list[str]:
    """Return notes on weights that leave nearly nothing of the first gradient to the others, or get nearly nothing of it.

    Args:
        shares: of the first gradient, by loss.
        weights: by loss.
        on_logits: the losses that compare logits with labels or the teacher's: what the others are measured by.
    """
    dominant = max(shares, key=lambda name: shares[name])
    if not OVERWEIGHT < shares[dominant] < 1:
        return []
    unbalanced = [dominant] if dominant not in on_logits else [name for name in shares if name not in on_logits]
    return [_balanced(name, shares[name], weights) for name in unbalanced if shares[name] > 0]


def check_runaway(shares: Mapping[str, float], weights: Mapping[str, float], on_logits: Collection[str]) -> None:
    """Check that no loss takes so much of the first gradient that the student would not learn its classes.

    Arguments are those of `balance_notes`.

    Raises:
        InputError: naming the loss and a remedy.
    """
    for name, share in shares.items():
        if name not in on_logits and RUNAWAY < share < 1:
            raise InputError(
                f"{_balanced(name, share, weights)}. Such a weight keeps a student from learning its classes: give {name}=auto, that "
                "number, or insist with `insist`"
            )


def _balanced(name: str, share: float, weights: Mapping[str, float]) -> str:
    half = weights[name] * (1 - share) / share
    return f"{name} gives {share:.1%} of the first gradient: with {name}={half:.2g} it would give half"


def training_speed(distiller: Distiller, batch: Batch) -> float:
    """Return the images a second of forward and backward with the live teacher. The student is left as it was."""

    def step() -> None:
        out = distiller(batch.images, batch.labels, batch.indices)
        out.total.backward()
        out.total.item()  # waits for the device

    with restored(distiller):
        return len(batch.labels) / seconds_of(step)


def teacher_speed(distiller: Distiller, batch: Batch) -> float:
    """Return the images a second of the teacher's network alone."""

    def forward() -> None:
        assert distiller.teacher is not None
        logits = distiller.teacher(batch.images).logits
        assert logits is not None
        logits.sum().item()  # waits for the device

    return len(batch.labels) / seconds_of(forward)


def seconds_of(call: Callable[[], None]) -> float:
    """Return the seconds that one call takes; the caller has warmed everything up, by taking the gradients of this batch."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def seconds_with_cache(images: float, speed: float, teachers_speed: float, to_fill: float) -> float:
    """Return the seconds of training on so many images with a cached teacher.

    Args:
        images: of all epochs.
        speed: images a second with the live teacher.
        teachers_speed: images a second of the teacher alone.
        to_fill: answers that the cache lacks, for which the teacher runs.
    """
    student_alone = max(1 / speed - 1 / teachers_speed, 0.1 / speed)
    return images * student_alone + min(to_fill, images) / teachers_speed
