"""Which stage of the teacher teaches which stage of the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features.stages import Stage, find_stages, stages_at

MAX_PAIRS = 4
"""Pairs made by default, counted from the deep end: a shallower one, the stem's, is too local to hold an object."""


@dataclass(frozen=True)
class Pair:
    """A stage of the teacher and the stage of the student that learns from it."""

    teacher: Stage
    student: Stage

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which their maps are compared: the smaller of the two."""
        return min(self.teacher.height, self.student.height), min(self.teacher.width, self.student.width)

    @property
    def resized(self) -> bool:
        """Whether one of the maps is pooled for the comparison."""
        return (self.teacher.height, self.teacher.width) != (self.student.height, self.student.width)


def pair_models(
    teacher: nn.Module, student: nn.Module, teacher_images: Tensor, student_images: Tensor, pairs: str | None = None
) -> list[Pair]:
    """Pair two models: by the text 'TEACHER_MODULE:STUDENT_MODULE,...' where it is given, else by stride.

    Raises InputError when nothing can be paired, or the text names what is not there.
    """
    if pairs is not None:
        named = [tuple(pair.strip().split(":")) for pair in pairs.split(",")]
        if any(len(pair) != 2 or not all(pair) for pair in named):
            raise InputError(
                f"pairs are written TEACHER_MODULE:STUDENT_MODULE,..., for example layer2:layer2, not '{pairs}'"
            )
        teacher_stages = stages_at(teacher, [pair[0] for pair in named], teacher_images, "teacher")
        student_stages = stages_at(student, [pair[1] for pair in named], student_images, "student")
        return [Pair(t, s) for t, s in zip(teacher_stages, student_stages, strict=True)]
    matched = match_stages(find_stages(teacher, teacher_images), find_stages(student, student_images))
    if not matched:
        raise InputError(
            "no stage of the teacher can be paired with one of the student: name the modules yourself with "
            "pairs='TEACHER_MODULE:STUDENT_MODULE,...', or leave out the losses on features"
        )
    return matched


def match_stages(teacher: Sequence[Stage], student: Sequence[Stage]) -> list[Pair]:
    """Pair stages of nearly equal stride, from the deep end; where no strides agree, pair by depth from the deep end.

    Each stage is used once, the order is kept, and at most MAX_PAIRS are made. Shallow to deep in, shallow to deep out.
    """
    pairs: list[Pair] = []
    rest = list(teacher)
    for stage in reversed(student):
        while rest and _octaves(rest[-1], stage) > 0.5:
            rest.pop()
        if rest and abs(_octaves(rest[-1], stage)) <= 0.5:
            pairs.append(Pair(rest.pop(), stage))
    if len(pairs) < min(2, len(teacher), len(student)):
        pairs = [Pair(t, s) for t, s in zip(reversed(teacher), reversed(student), strict=False)]
    return pairs[:MAX_PAIRS][::-1]


def _octaves(teacher: Stage, student: Stage) -> float:
    """By how many halvings of the resolution the teacher's stage is deeper than the student's."""
    return math.log2(teacher.stride / student.stride)
