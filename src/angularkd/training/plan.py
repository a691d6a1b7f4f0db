"""The plan of a distillation: its parts, how each is found out, and the reasons to stop before the first step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from angularkd.distillation.distiller import Distiller
from angularkd.errors import InputError
from angularkd.features.pairing import Pair
from angularkd.system.modes import mode
from angularkd.types import Batch

LOOKED_AT = 500
"""Validation images at most that the plan shows to the teacher: enough to see that it is the right one."""
OVERWEIGHT = 0.95
"""Share of the first gradient from which on a loss is told to be overweight."""


@dataclass(frozen=True)
class Plan:
    """What a distillation is going to do.

    teacher, student: spec, parameters, classes and preprocessing of each.
    teacher_validation: the teacher's metrics on the validation split, or on some of it, evenly spread; `teacher_images`: on how many.
    data: name, counts of images and classes, image size, augmentation and its views, how batches are mixed, and how the splits came about.
    pairs: which stages teach which, and at which size they are compared.
    weights: by loss term.
    gradient_share: by loss term, its gradient's norm at the student's parameters over the sum of these norms, on the first batch.
    images_per_second: of a training step with the live teacher, measured.
    seconds_expected: of all training steps, the teacher running only for what its cache lacks.
    cache: folder of the teacher's kept answers, its size when full, the share that is there, and the seconds that the teacher
        takes for the rest; None without one.
    """

    teacher: dict[str, Any]
    student: dict[str, Any]
    teacher_validation: dict[str, float]
    teacher_images: int
    data: dict[str, Any]
    pairs: list[dict[str, Any]]
    weights: dict[str, float]
    gradient_share: dict[str, float]
    images_per_second: float
    seconds_expected: float
    cache: dict[str, Any] | None
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_classes(teacher_classes: int, data_classes: int, signals: frozenset[str]) -> None:
    """Raises InputError when a loss compares logits and the teacher tells apart another number of classes than the data."""
    if teacher_classes != data_classes and "teacher_logits" in signals:
        raise InputError(
            f"the teacher tells apart {teacher_classes} classes, the data has {data_classes}: give a teacher trained on these "
            "classes, or leave out the losses that compare logits, for example --loss ce=1 --loss amd=5000"
        )


def check_better_than_chance(accuracy: float, num_classes: int, samples: int) -> None:
    """Raises InputError when an accuracy lies within two standard errors of guessing."""
    chance = 1 / num_classes
    if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / samples):
        raise InputError(
            f"the teacher's accuracy on the {samples} validation images is {accuracy:.1%}, no better than chance ({chance:.1%}): "
            "check its weights, its normalization and the order of its classes"
        )


def describe_pair(pair: Pair) -> dict[str, Any]:
    """A row of the table of pairs."""
    return {
        "teacher": pair.teacher.path,
        "teacher_shape": list(pair.teacher.shape),
        "student": pair.student.path,
        "student_shape": list(pair.student.shape),
        "compared_at": list(pair.size),
        "resized": pair.resized,
    }


def gradient_shares(distiller: Distiller, batch: Batch) -> dict[str, float]:
    """Each term's part in the gradient: its norm over the sum of the norms. The student is left as it was."""
    parameters = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    with untouched(distiller):
        terms = distiller(batch.images, batch.labels, batch.indices).terms
        norms = {}
        for name, term in terms.items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            norms[name] = math.sqrt(sum(float(g.float().square().sum()) for g in gradients if g is not None))
    total = sum(norms.values()) or 1.0
    return {name: norm / total for name, norm in norms.items()}


def overweight(shares: Mapping[str, float], weights: Mapping[str, float]) -> list[str]:
    """A note on a loss that leaves nearly nothing of the first gradient to the others, with the weight that would take half."""
    return [
        f"{name} gives {share:.1%} of the first gradient: with {name}={weights[name] * (1 - share) / share:.2g} it would give half"
        for name, share in shares.items()
        if OVERWEIGHT < share < 1
    ]


def training_speed(distiller: Distiller, batch: Batch) -> float:
    """Images a second of forward and backward with the live teacher. The student is left as it was."""

    def step() -> None:
        out = distiller(batch.images, batch.labels, batch.indices)
        out.total.backward()
        out.total.item()  # waits for the device

    with untouched(distiller):
        return len(batch.labels) / seconds_of(step)


def teacher_speed(distiller: Distiller, batch: Batch) -> float:
    """Images a second of the teacher alone."""

    def forward() -> None:
        assert distiller.teacher is not None
        distiller.teacher(batch.images).output.sum().item()

    return len(batch.labels) / seconds_of(forward)


def seconds_of(call: Callable[[], None]) -> float:
    """Of one call: whoever asks has taken the gradients of this batch before, so that nothing has to warm up."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def seconds_with_cache(images: float, speed: float, teachers_speed: float, to_fill: float) -> float:
    """Of training on so many images, from the speed with the live teacher, when that runs for the images `to_fill` alone."""
    student_alone = max(1 / speed - 1 / teachers_speed, 0.1 / speed)
    return images * student_alone + min(to_fill, images) / teachers_speed


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Training mode inside; parameters, statistics, gradients, modes and the random state are put back afterwards."""
    saved = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        with mode(module, training=True), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        module.load_state_dict(saved)
        module.zero_grad(set_to_none=True)
