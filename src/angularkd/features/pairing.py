"""Which stage of the teacher teaches which stage of the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from angularkd.errors import InputError
from angularkd.features.feature_maps import Stage
from angularkd.features.stages import find_stages, stages_at
from angularkd.features.tracing import Trace

MAX_PAIRS = 4
"""Pairs made by default, counted from the deep end: a shallower one, the stem's, is too local to hold an object."""


@dataclass(frozen=True)
class Pair:
    """A stage of the teacher and the stage of the student that learns from it."""

    teacher: Stage
    student: Stage

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width at which their maps are compared: the smaller of the two."""
        return min(self.teacher.height, self.student.height), min(self.teacher.width, self.student.width)

    @property
    def resized(self) -> bool:
        """Return whether one of the maps is pooled for the comparison."""
        return self.teacher.grid != self.student.grid


def pair_models(
    teacher: nn.Module, student: nn.Module, teacher_trace: Trace, student_trace: Trace, pairs: str | None = None
) -> list[Pair]:
    """Pair the stages of two models: by text where it is given, else by stride.

    Args:
        teacher: the traced teacher.
        student: the traced student.
        teacher_trace: what a forward of the teacher showed.
        student_trace: what a forward of the student showed.
        pairs: 'TEACHER_MODULE:STUDENT_MODULE,...'; a module's path with `.input` behind it names what it is called with.

    Raises:
        InputError: when nothing can be paired, or the text names what does not exist.
    """
    if pairs is not None:
        named = [tuple(pair.strip().split(":")) for pair in pairs.split(",")]
        if any(len(pair) != 2 or not all(pair) for pair in named):
            raise InputError(
                f"`pairs` are written TEACHER_MODULE:STUDENT_MODULE,..., for example layer2:layer2, not '{pairs}'"
            )
        teacher_stages = stages_at(teacher, [pair[0] for pair in named], teacher_trace, "teacher")
        student_stages = stages_at(student, [pair[1] for pair in named], student_trace, "student")
        return [Pair(t, s) for t, s in zip(teacher_stages, student_stages, strict=True)]
    matched = match_stages(find_stages(teacher, teacher_trace), find_stages(student, student_trace))
    if not matched:
        raise InputError(
            "no stage of the teacher can be paired with one of the student: name the modules yourself in `pairs`, as "
            "TEACHER_MODULE:STUDENT_MODULE,..., or leave out the losses on features"
        )
    return matched


def match_stages(teacher: Sequence[Stage], student: Sequence[Stage]) -> list[Pair]:
    """Pair stages of nearly equal stride, from the deep end; where no strides agree, pair by depth from the deep end.

    Each stage is used once, in order, and at most MAX_PAIRS are made.

    Args:
        teacher: stages of the teacher, shallow to deep.
        student: stages of the student, shallow to deep.

    Returns:
        The pairs, shallow to deep.
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
    """Return by how many halvings of the resolution the teacher's stage is deeper than the student's."""
    return math.log2(teacher.stride / student.stride)
