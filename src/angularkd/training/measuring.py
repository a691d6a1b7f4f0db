"""What one batch tells about a run before it starts: each loss's share of the gradient, and how fast steps are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch

from angularkd.distillation import Distiller
from angularkd.system.modes import restored
from angularkd.types import Batch

OVERWEIGHT = 0.95
"""Share of the first gradient from which on a loss is called overweight."""


def gradient_shares(distiller: Distiller, batch: Batch) -> dict[str, float]:
    """Return each term's share of the gradient: its norm over the sum of the norms. The student is left as it was."""
    parameters = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    with restored(distiller):
        terms = distiller(batch.images, batch.labels, batch.indices).terms
        norms = {}
        for name, term in terms.items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            norms[name] = math.sqrt(sum(float(g.float().square().sum()) for g in gradients if g is not None))
    total = sum(norms.values()) or 1.0
    return {name: norm / total for name, norm in norms.items()}


def overweight(shares: Mapping[str, float], weights: Mapping[str, float]) -> list[str]:
    """Return a note on a loss that leaves nearly nothing of the first gradient to the others, with the weight that would take half."""
    return [
        f"{name} gives {share:.1%} of the first gradient: with {name}={weights[name] * (1 - share) / share:.2g} it would give half"
        for name, share in shares.items()
        if OVERWEIGHT < share < 1
    ]


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
