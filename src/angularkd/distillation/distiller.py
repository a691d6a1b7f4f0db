"""Distiller: one forward of the student beside a frozen teacher, and the weighted losses between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.defaults import DEFAULT_LOSSES, LABELS_ALONE
from angularkd.distillation.gradients import gradient_norms, mean_norms, weights_for
from angularkd.distillation.matching import Match, check_same_classes, match, use_distillation_head
from angularkd.distillation.networks import check_apart, check_images, check_learns, check_network, trace_network
from angularkd.distillation.teacher import LiveTeacher, Request, Teacher, Transform
from angularkd.errors import InputError, StageError
from angularkd.features import (
    FeatureExtractor,
    ModelOutput,
    Pair,
    Trace,
    with_class_maps,
)
from angularkd.losses import DISTILLATION_LOGITS, WeightedLosses, read_terms, signals_of
from angularkd.system.compiling import CompiledForOneShape, begin_step
from angularkd.types import Distilled, Signals


class Distiller(nn.Module):
    """A student that learns from a teacher; calling it on a batch gives the loss.

        out = distiller(images, labels)
        out.total.backward()

    Parts of the student that have parameters, but none to train, stay in evaluation mode.

    Args:
        teacher: any module from images to logits [batch, classes], or to embeddings [batch, dim], for losses on embeddings; or a
            `Teacher`, such as one that answers from a cache; or None, to train the student by the labels alone. Its network is put
            into evaluation mode, never trained, never part of `state_dict()`; `.to(...)` moves it along.
        student: any module from images to logits, or in training to an object whose `logits` they are (GoogLeNet), or to two of them,
            a class head's and a distillation head's; a model of timm's that has both is made to give both where a loss uses them.
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options
            (`angularkd.losses.LOSSES`). A weight may be "auto": it is found on the first batch, so that the loss gets its `share`
            of the gradient. Their learned parts are among the distiller's parameters. Default: DEFAULT_LOSSES, without a teacher ce.
        pairs: which stages teach which: `Pair`s, or text 'TEACHER_MODULE:STUDENT_MODULE,...'; by default they are
            matched by stride, at once if `example` is given, else on the first batch.
        example: images [batch, 3, height, width] of the shape that will come, to trace both networks on; required by losses with
            learned parts.
        teacher_transform: applied to the images before a teacher that is a plain module, for example its normalisation.
        student_transform: applied to the images before the student. By default both get the images as they are.
        student_trace: what one forward of the student on transformed images showed (`angularkd.features.trace`), where that was
            made before.
        train_labels: the class of each row of the training split [samples], for losses that remember its samples.
        class_logits: the teacher's logits of some training images of each class, for losses that compare classes by them.

    Raises:
        InputError: for an unknown loss, losses that need a teacher where there is none, stages that cannot be paired, networks without
            weights yet, and two that share what is to be trained.
    """

    warns: bool = True
    """Whether the first batch warns of what its losses cannot do with these networks; a run says so in its plan instead."""

    def __init__(
        self,
        teacher: nn.Module | Teacher | None,
        student: nn.Module,
        losses: Mapping[str, float | str | Mapping[str, Any]] | None = None,
        *,
        pairs: Sequence[Pair] | str | None = None,
        example: Float[Tensor, "batch 3 height width"] | None = None,
        teacher_transform: Transform | None = None,
        student_transform: Transform | None = None,
        student_trace: Trace | None = None,
        train_labels: Int[Tensor, " samples"] | None = None,
        class_logits: Float[Tensor, "classes samples classes"] | None = None,
    ) -> None:
        super().__init__()
        terms = read_terms(losses if losses is not None else DEFAULT_LOSSES if teacher is not None else LABELS_ALONE)
        self.signals = signals_of(terms)
        self._terms = terms
        self.needs_teacher = any(name.startswith("teacher") for name in self.signals)
        if teacher is None and self.needs_teacher:
            raise InputError("these losses compare with a teacher and there is none: pass one, or use losses={'ce': 1}")
        check_network(student, "student")
        self.student = student
        if DISTILLATION_LOGITS in self.signals:
            use_distillation_head(student)
        self.teacher: Teacher | None = (
            LiveTeacher(teacher, teacher_transform) if isinstance(teacher, nn.Module) else teacher
        )
        if self.teacher is not None:
            check_apart(self.teacher.module, student)
        self.student_transform = student_transform
        self._matched = Match()
        self._requested_pairs = pairs
        self._student_trace = student_trace
        self._student_extractor = FeatureExtractor(student, ())
        self._ready = False
        self._compiled: CompiledForOneShape[Distilled] | None = None
        if example is None:
            self.losses = WeightedLosses(terms)
        else:
            self._matched = self._find_match(example)
            self.losses = WeightedLosses(terms, self._matched.context(self.teacher, terms, train_labels, class_logits))
            self._extract(example)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that a copy, or a file, gets: it runs as it is written."""
        return {**vars(self), "_compiled": None}

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Tensor | None = None,
        indices: Int[Tensor, " batch"] | None = None,
        view: int | None = None,
    ) -> Distilled:
        """Return the loss of a batch, its terms, and the student's logits.

        Args:
            images: values in 0..1, unless the networks take something else and no transforms are given.
            labels: classes [batch], or soft labels [batch, classes].
            indices: rows of the images in the training split [batch].
            view: the number of their augmentation; with both, a cached teacher answers from its cache.

        Raises:
            InputError: when a loss needs labels or indices and there are none, and when teacher and student tell
                apart different numbers of classes while a loss compares their logits.
        """
        for name, value in (("labels", labels), ("indices", indices)):
            if value is None and name in self.signals:
                raise InputError(f"these losses use {name}: call distiller(images, labels, indices) with them")
        if not self._ready:
            self._matched = self._find_match(images)
            self._extract(images)
        if self.losses.unresolved:
            if not self.training:
                raise InputError("weights of auto are found in training: call the distiller on a training batch first")
            self.resolve_weights([self.gradient_norms(images, labels, indices)])
        distilled = self._step(images, labels, indices, view)
        if self.training:
            check_learns(distilled.total, self.student)
        if self.warns:
            self.warns = False
            for note in self._matched.notes(self.losses, distilled.student_logits.shape[1]):
                warnings.warn(note, stacklevel=4)  # behind those of nn.Module
        return distilled

    def gradient_norms(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Tensor | None = None,
        indices: Int[Tensor, " batch"] | None = None,
    ) -> dict[str, float]:
        """Return the norm of each term's gradient at the student's parameters; nothing is changed.

        The teacher runs live. A term whose weight is `auto` and not found yet counts with a weight of 1.
        """
        return gradient_norms(self, self.student, lambda: self._step(images, labels, indices, None).terms)

    def resolve_weights(self, norms: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Find the weights that are `auto`, so that each of these losses gets its share of the gradient.

        Args:
            norms: what `gradient_norms` returned for one batch or more; their mean is taken.

        Returns:
            The weights that were found, by loss.

        Raises:
            InputError: when a loss has no gradient at the student.
        """
        found = weights_for(self.losses.shares(self._matched.calls_for_caution), mean_norms(map(dict, norms)))
        self.losses.weights.update(found)
        return found

    def _step(self, images: Tensor, labels: Tensor | None, indices: Tensor | None, view: int | None) -> Distilled:
        if self._compiled is not None:
            begin_step(images.device)
        teacher_output = self._teacher_output(images, indices, view)
        if indices is not None:
            indices = indices.to(images.device, non_blocking=True) if "indices" in self.signals else None
        compiled = self._compiled if self.training and torch.is_grad_enabled() else None
        try:
            if compiled is None:
                return self._learn(images, labels, indices, teacher_output)
            with self._student_extractor.attached():
                return compiled(images, labels, indices, teacher_output)
        except StageError as error:
            raise InputError(f"{self._matched.stage_name(error.stage)}: {error.reason}") from None
        except RuntimeError:
            check_images(self.student, images, "student")
            raise

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Return which stages teach which, once they are paired."""
        return self._matched.pairs

    def compile(self, *, teacher: bool = True, **options: Any) -> None:
        """Compile the teacher's forward, and the student's with all losses, by `torch.compile`, in place.

        `torch.compile(distiller)` computes the same, in more pieces.

        Each is compiled when it is first called, for images of that shape: let that be a full batch. Batches of another shape,
        evaluation mode and calls without gradients run as before. The teacher's weights become constants of its code, batch normalisation
        folded into convolutions where it follows them: after a change of its weights, compile again. Parameters that no loss
        reaches then get gradients of zeros rather than none.

        Args:
            teacher: whether its forward is compiled too.
            options: options of the inductor backend, for example `max_autotune=True`; or `backend="eager"` and the like, for another.

        Raises:
            InputError: for losses that use gradients or attention inside of the networks (Grad-CAM, class tokens), which cannot
                be compiled, and for features before an activation function that compiled code does not show.
        """
        self._matched.check_compiles(self.losses.reductions)
        if self.teacher is not None:
            if teacher and self.needs_teacher:
                self.teacher.compile(**options)
            else:
                self.teacher.uncompile()
        self._compiled = CompiledForOneShape(self._learn, **options)

    def uncompile(self) -> None:
        """Run everything as it is written again."""
        self._compiled = None
        if self.teacher is not None:
            self.teacher.uncompile()

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let weights that have a schedule follow it.

        Args:
            epoch: how many epochs are done, in fractions too.
            epochs: how many the run has.
        """
        self.losses.set_epoch(epoch, epochs)

    def close(self) -> None:
        """End it: both models are as they were, and it cannot be called any more."""
        self._student_extractor.close()
        if self.teacher is not None:
            self.teacher.close()

    def train(self, mode: bool = True) -> Distiller:
        """Set training mode for student and losses; the teacher, and frozen parts of the student, stay in evaluation mode."""
        super().train(mode)
        for part in self.student.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        if self.teacher is not None:
            self.teacher.module.eval()
        return self

    def _teacher_output(self, images: Tensor, indices: Tensor | None, view: int | None) -> ModelOutput:
        if self.teacher is None or not self.needs_teacher:
            return ModelOutput(None, {}, None)
        return self.teacher(images, indices, view)

    def _learn(
        self, images: Tensor, labels: Tensor | None, indices: Tensor | None, teacher_output: ModelOutput
    ) -> Distilled:
        """Run the student, and compare its output with the teacher's."""
        student_output = self._student_extractor(self._transformed(images))
        if "teacher_logits" in self.signals:
            check_same_classes(teacher_output.logits, student_output.logits)
        if teacher_output.stage_outputs:
            teacher_output, student_output = self._with_class_maps(teacher_output, student_output, labels)
        assert student_output.logits is not None
        signals = Signals(
            labels,
            indices,
            student_output.logits,
            teacher_output.logits,
            student_output.embedding,
            teacher_output.embedding,
            student_output.features,
            teacher_output.features,
            self._distillation_logits(student_output),
        )
        terms = self.losses(signals)
        return Distilled(torch.stack(list(terms.values())).sum(), terms, student_output.logits)

    def _distillation_logits(self, student_output: ModelOutput) -> Tensor | None:
        """Return what the student's distillation head gives, where a loss uses it; in evaluation the one output stands for both heads."""
        if DISTILLATION_LOGITS not in self.signals or student_output.distillation_logits is not None:
            return student_output.distillation_logits
        if self.training:
            raise InputError(
                "a loss uses the logits of a distillation head and the student gives one tensor in training, not a pair: use a "
                "student with two heads (timm/deit_tiny_distilled_patch16_224), or hard in place of token"
            )
        return student_output.logits

    def _with_class_maps(
        self, teacher_output: ModelOutput, student_output: ModelOutput, labels: Tensor | None
    ) -> tuple[ModelOutput, ModelOutput]:
        """Add the maps of the reductions that use gradients."""
        assert teacher_output.logits is not None
        logits, reductions = teacher_output.logits.detach(), self.losses.reductions
        teacher_stages, student_stages = zip(*((pair.teacher, pair.student) for pair in self.pairs), strict=True)
        return (
            with_class_maps(teacher_output, teacher_stages, reductions, labels, logits, create_graph=False),
            with_class_maps(
                student_output, student_stages, reductions, labels, logits, create_graph=torch.is_grad_enabled()
            ),
        )

    def _transformed(self, images: Tensor) -> Tensor:
        return self.student_transform(images) if self.student_transform is not None else images

    def _find_match(self, images: Tensor) -> Match:
        """Return what belongs together of both networks, as far as the losses need it."""
        if self.teacher is None or not self.needs_teacher:
            return Match()

        def student_trace() -> Trace:
            if self._student_trace is None:
                self._student_trace = trace_network(self.student, self._transformed(images[:1]), "student")
            return self._student_trace

        return match(self.teacher, self.student, self._terms, images[:1], student_trace, self._requested_pairs)

    def _extract(self, example: Tensor) -> None:
        """Have both networks give what the losses compare, from now on."""
        self._ready = True
        found = self._matched
        if self.teacher is not None:
            stages = tuple(pair.teacher for pair in found.pairs)
            reductions = self.losses.reductions_by_loss
            self.teacher.prepare(Request(stages, reductions, found.teacher_head, self.signals, example[:1]))
        self._student_extractor.close()
        student_stages = [pair.student for pair in found.pairs]
        self._student_extractor = FeatureExtractor(
            self.student, student_stages, self.losses.reductions, found.student_head
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.teacher is not None:
            self.teacher.module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
