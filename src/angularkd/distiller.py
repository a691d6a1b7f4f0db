"""Distiller: one forward of the student beside a frozen teacher, and the weighted losses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features import FeatureExtractor, Stage
from angularkd.losses.weighted import WeightedLosses
from angularkd.pairing import Pair, pair_models
from angularkd.types import Distilled, Features, Logits, Reduction, Signals

Transform = Callable[[Tensor], Tensor]


class FrozenTeacher:
    """A teacher in evaluation mode, without gradients, seen through hooks on its stages.

    Deliberately no nn.Module: its holder does not list it among its parameters, put it into training mode, or save it.
    """

    def __init__(self, module: nn.Module, transform: Transform | None) -> None:
        self.module = module.eval()
        self.transform = transform
        self.extractor = FeatureExtractor(module, ())

    def watch(self, stages: Sequence[Stage], reductions: Sequence[Reduction | None]) -> None:
        """Keep these reductions of these stages' features from now on."""
        self.extractor.close()
        self.extractor = FeatureExtractor(self.module, stages, reductions)

    def __call__(self, images: Tensor) -> tuple[Logits, dict[Reduction | None, Features]]:
        with torch.no_grad():
            return self.extractor(self.transform(images) if self.transform else images)


class Distiller(nn.Module):
    """A student that learns from a teacher; calling it on a batch gives the loss.

        out = distiller(images, labels)
        out.total.backward()

    Args:
        teacher: any module from images to logits [batch, classes], or None to train the student by the labels alone.
            It is put into evaluation mode, never trained, never part of `state_dict()`; `.to(...)` moves it along.
        student: any module from images to logits.
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options
            (`angularkd.losses.weighted.LOSSES`).
        pairs: which stages teach which: `Pair`s, or text 'TEACHER_MODULE:STUDENT_MODULE,...'; by default they are
            matched by stride, at once if `example` is given, else on the first batch.
        example: images of the shape that will come, to pair on.
        teacher_transform, student_transform: applied to the images first, each for its own model (for example
            `angularkd.models.sources.Preprocessing`); by default both get the images as they are.

    Calling it: images [batch, 3, height, width], labels [batch]. Raises InputError when a loss needs labels and none
    are given, or a teacher and there is none, and when teacher and student tell apart different numbers of classes while
    a loss compares their logits.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        student: nn.Module,
        losses: Mapping[str, float | Mapping[str, Any]],
        *,
        pairs: Sequence[Pair] | str | None = None,
        example: Tensor | None = None,
        teacher_transform: Transform | None = None,
        student_transform: Transform | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = WeightedLosses(losses)
        self.teacher = FrozenTeacher(teacher, teacher_transform) if teacher is not None else None
        self.student_transform = student_transform
        self.pairs: tuple[Pair, ...] = ()
        self._pairs_wanted = pairs
        self._student_extractor = FeatureExtractor(student, ())
        self._teacher_wanted = any(name.startswith("teacher") for name in self.losses.signals)
        if self.teacher is None and self._teacher_wanted:
            raise InputError("these losses compare with a teacher and there is none: pass one, or use losses={'ce': 1}")
        self._paired = not self.losses.reductions
        if isinstance(pairs, Sequence) and not isinstance(pairs, str):
            self._watch(pairs)
        elif example is not None and not self._paired:
            self._pair(example)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], labels: Int[Tensor, " batch"] | None = None
    ) -> Distilled:
        if labels is None and "labels" in self.losses.signals:
            raise InputError("these losses compare with labels: call distiller(images, labels)")
        if not self._paired:
            self._pair(images)
        teacher_logits, teacher_features = self._ask_teacher(images)
        student_images = self.student_transform(images) if self.student_transform else images
        student_logits, student_features = self._student_extractor(student_images)
        if teacher_logits is not None and "teacher_logits" in self.losses.signals:
            check_same_classes(teacher_logits, student_logits)
        terms = self.losses(Signals(labels, student_logits, teacher_logits, student_features, teacher_features))
        return Distilled(torch.stack(list(terms.values())).sum(), terms, student_logits)

    def close(self) -> None:
        """Remove the hooks: both models are as they were."""
        self._student_extractor.close()
        if self.teacher is not None:
            self.teacher.extractor.close()

    def _ask_teacher(self, images: Tensor) -> tuple[Logits | None, dict[Reduction | None, Features]]:
        return self.teacher(images) if self.teacher is not None and self._teacher_wanted else (None, {})

    def _pair(self, images: Tensor) -> None:
        assert self.teacher is not None
        teacher_images = self.teacher.transform(images[:1]) if self.teacher.transform else images[:1]
        student_images = self.student_transform(images[:1]) if self.student_transform else images[:1]
        text = self._pairs_wanted if isinstance(self._pairs_wanted, str) else None
        self._watch(pair_models(self.teacher.module, self.student, teacher_images, student_images, text))

    def _watch(self, pairs: Sequence[Pair]) -> None:
        assert self.teacher is not None
        self.pairs = tuple(pairs)
        self._paired = True
        self.teacher.watch([pair.teacher for pair in pairs], self.losses.reductions)
        self._student_extractor.close()
        self._student_extractor = FeatureExtractor(
            self.student, [pair.student for pair in pairs], self.losses.reductions
        )

    def train(self, mode: bool = True) -> Distiller:
        """Training mode for student and losses; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.module.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.teacher is not None:
            self.teacher.module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def check_same_classes(teacher_logits: Logits, student_logits: Logits) -> None:
    """Raises InputError when teacher and student tell apart different numbers of classes."""
    if teacher_logits.shape != student_logits.shape:
        raise InputError(
            f"the teacher gives logits {list(teacher_logits.shape)}, the student {list(student_logits.shape)}: "
            "give the student the teacher's classes, or leave out the losses that compare logits"
        )
