"""Distiller: one forward of the student beside a frozen teacher, and the weighted losses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features import FeatureExtractor, Seen
from angularkd.losses.weighted import EMBEDDINGS, FEATURES, WeightedLosses, read_terms, signals_of
from angularkd.pairing import Pair, pair_models
from angularkd.stages import Head, Stage, find_head
from angularkd.types import Distilled, Logits, Reduction, Signals, Surroundings

Transform = Callable[[Tensor], Tensor]


class FrozenTeacher:
    """A teacher in evaluation mode, without gradients, seen through hooks on its stages.

    Deliberately no nn.Module: its holder does not list it among its parameters, put it into training mode, or save it.
    """

    def __init__(self, module: nn.Module, transform: Transform | None) -> None:
        self.module = module.eval()
        self.transform = transform
        self.extractor = FeatureExtractor(module, ())

    def watch(self, stages: Sequence[Stage], reductions: Sequence[Reduction | None], head: Head | None) -> None:
        """Keep these reductions of these stages' features, and the input of this head, from now on."""
        self.extractor.close()
        self.extractor = FeatureExtractor(self.module, stages, reductions, head)

    def __call__(self, images: Tensor) -> Seen:
        with torch.no_grad():
            return self.extractor(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """The images as the teacher wants them."""
        return self.transform(images) if self.transform is not None else images


class Distiller(nn.Module):
    """A student that learns from a teacher; calling it on a batch gives the loss.

        out = distiller(images, labels)
        out.total.backward()

    Args:
        teacher: any module from images to logits [batch, classes], or None to train the student by the labels alone.
            It is put into evaluation mode, never trained, never part of `state_dict()`; `.to(...)` moves it along.
        student: any module from images to logits.
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options
            (`angularkd.losses.weighted.LOSSES`). Learned parts of losses are among the distiller's parameters.
        pairs: which stages teach which: `Pair`s, or text 'TEACHER_MODULE:STUDENT_MODULE,...'; by default they are
            matched by stride, at once if `example` is given, else on the first batch.
        example: images of the shape that will come, to pair on; required by losses with learned parts.
        teacher_transform, student_transform: applied to the images first, each for its own model (for example
            `angularkd.models.sources.Preprocessing`); by default both get the images as they are.
        train_labels: the class of each row of the training split, for losses that remember its samples.

    Calling it: images [batch, 3, height, width], labels [batch], indices [batch] (rows of the training split). Raises
    InputError when a loss needs labels, indices or a teacher and there are none, and when teacher and student tell
    apart different numbers of classes while a loss compares their logits.
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
        train_labels: Int[Tensor, " samples"] | None = None,
    ) -> None:
        super().__init__()
        terms = read_terms(losses)
        self.signals = signals_of(terms)
        self._teacher_wanted = any(name.startswith("teacher") for name in self.signals)
        if teacher is None and self._teacher_wanted:
            raise InputError("these losses compare with a teacher and there is none: pass one, or use losses={'ce': 1}")
        self.student = student
        self.teacher = FrozenTeacher(teacher, teacher_transform) if teacher is not None else None
        self.student_transform = student_transform
        self.pairs: tuple[Pair, ...] = ()
        self._pairs_wanted = pairs
        self._heads: tuple[Head | None, Head | None] = (None, None)
        self._student_extractor = FeatureExtractor(student, ())
        self._watching = False
        surroundings = None
        if example is not None:
            self._look(example)
            surroundings = self._surroundings(train_labels)
        self.losses = WeightedLosses(terms, surroundings)
        if example is not None:
            self._watch()

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Tensor | None = None,
        indices: Int[Tensor, " batch"] | None = None,
    ) -> Distilled:
        for name, value in (("labels", labels), ("indices", indices)):
            if value is None and name in self.signals:
                raise InputError(f"these losses look at {name}: call distiller(images, labels, indices) with them")
        if not self._watching:
            self._look(images)
            self._watch()
        taught = self.teacher(images) if self.teacher is not None and self._teacher_wanted else Seen(None, {}, None)
        shown = self._student_extractor(self._prepare(images))
        if "teacher_logits" in self.signals:
            check_same_classes(taught.output, shown.output)
        terms = self.losses(
            Signals(
                labels,
                indices,
                shown.output,
                taught.output,
                shown.embedding,
                taught.embedding,
                shown.features,
                taught.features,
            )
        )
        return Distilled(torch.stack(list(terms.values())).sum(), terms, shown.output)

    def close(self) -> None:
        """Remove the hooks: both models are as they were."""
        self._student_extractor.close()
        if self.teacher is not None:
            self.teacher.extractor.close()

    def _prepare(self, images: Tensor) -> Tensor:
        return self.student_transform(images) if self.student_transform is not None else images

    def _look(self, images: Tensor) -> None:
        """Find out what the losses want to know of both models: paired stages, classification layers."""
        if self.teacher is None or not self._teacher_wanted:
            return
        taught, shown = self.teacher.prepare(images[:1]), self._prepare(images[:1])
        if self.signals & set(FEATURES):
            wanted = self._pairs_wanted
            if wanted is None or isinstance(wanted, str):
                wanted = pair_models(self.teacher.module, self.student, taught, shown, wanted)
            self.pairs = tuple(wanted)
        if self.signals & set(EMBEDDINGS):
            self._heads = find_head(self.teacher.module, taught), find_head(self.student, shown)

    def _surroundings(self, train_labels: Int[Tensor, " samples"] | None) -> Surroundings:
        teacher_head, student_head = self._heads
        layer = self.teacher.module.get_submodule(teacher_head.path) if self.teacher and teacher_head else None
        weight = getattr(layer, "weight", None)
        return Surroundings(
            student_shapes=tuple(pair.student.shape for pair in self.pairs),
            teacher_shapes=tuple(pair.teacher.shape for pair in self.pairs),
            student_dim=student_head.dim if student_head else 0,
            teacher_dim=teacher_head.dim if teacher_head else 0,
            head_weight=weight.detach().flatten(1) if weight is not None else None,
            labels=train_labels,
            num_samples=len(train_labels) if train_labels is not None else 0,
        )

    def _watch(self) -> None:
        self._watching = True
        reductions = self.losses.reductions
        if self.teacher is not None:
            self.teacher.watch([pair.teacher for pair in self.pairs], reductions, self._heads[0])
        self._student_extractor.close()
        stages = [pair.student for pair in self.pairs]
        self._student_extractor = FeatureExtractor(self.student, stages, reductions, self._heads[1])

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
