"""Distiller: one forward of the student beside a frozen teacher, and the weighted losses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.distillation.cached_teacher import CachedTeacher, cacheable, check_cacheable, fields_of
from angularkd.distillation.teacher_cache import Field, TeacherCache
from angularkd.errors import InputError, StageError
from angularkd.features.extractor import FeatureExtractor, ModelOutput, with_class_maps
from angularkd.features.pairing import Pair, pair_models
from angularkd.features.stages import Head, Stage, find_head
from angularkd.losses.objective import EMBEDDINGS, FEATURES, LOSSES, Term, WeightedLosses, read_terms, signals_of
from angularkd.models.class_mapping import ClassMapping
from angularkd.system.compiling import CompiledForOneShape
from angularkd.types import Distilled, Logits, LossContext, Reduction, Signals

Transform = Callable[[Tensor], Tensor]


class FrozenTeacher:
    """A teacher in evaluation mode, without gradients, seen through hooks on its stages.

    Deliberately no nn.Module: its holder does not list it among its parameters, put it into training mode, or save it.
    """

    def __init__(self, module: nn.Module, transform: Transform | None, mapping: ClassMapping | None = None) -> None:
        self.module = module.eval()
        self.transform = transform
        self.mapping = mapping
        self.extractor = FeatureExtractor(module, ())
        self.compiled: CompiledForOneShape[ModelOutput] | None = None

    def watch(self, stages: Sequence[Stage], reductions: Sequence[Reduction | None], head: Head | None) -> None:
        """Keep these reductions of these stages' features, and the input of this head, from now on."""
        self.extractor.close()
        self.extractor = FeatureExtractor(self.module, stages, reductions, head)

    def __call__(self, images: Tensor, *, as_written: bool = False) -> ModelOutput:
        if self.module.training:  # somebody put it there since
            self.module.eval()
        with torch.no_grad():
            return self.look(images) if as_written or self.compiled is None else self.compiled(images)

    def look(self, images: Tensor) -> ModelOutput:
        """What it shows for images, computed as it is written."""
        seen = self.extractor(self.prepare(images))
        if self.mapping is None:
            return seen
        with torch.set_grad_enabled(seen.output.requires_grad):
            return replace(seen, output=self.mapping(seen.output))

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
        student: any module from images to logits, or in training to an object whose `logits` they are (GoogLeNet).
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options
            (`angularkd.losses.objective.LOSSES`). Learned parts of losses are among the distiller's parameters.
        pairs: which stages teach which: `Pair`s, or text 'TEACHER_MODULE:STUDENT_MODULE,...'; by default they are
            matched by stride, at once if `example` is given, else on the first batch.
        example: images of the shape that will come, to pair on; required by losses with learned parts.
        teacher_transform, student_transform: applied to the images first, each for its own model (for example
            `angularkd.models.opening.Preprocessing`); by default both get the images as they are.
        train_labels: the class of each row of the training split, for losses that remember its samples.
        teacher_mapping: from the teacher's classes to the student's, where these are others; losses see mapped logits.

    Parts of the student that have parameters, but none to train, stay in evaluation mode.

    Calling it: images [batch, 3, height, width], labels [batch], indices [batch] (rows of the training split), view (the number
    of their augmentation; with both, a teacher whose answers are kept does not run again). Raises
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
        teacher_mapping: ClassMapping | None = None,
    ) -> None:
        super().__init__()
        terms = read_terms(losses)
        self.signals = signals_of(terms)
        self.needs_teacher = any(name.startswith("teacher") for name in self.signals)
        if teacher is None and self.needs_teacher:
            raise InputError("these losses compare with a teacher and there is none: pass one, or use losses={'ce': 1}")
        self.student = student
        self.teacher = FrozenTeacher(teacher, teacher_transform, teacher_mapping) if teacher is not None else None
        self.student_transform = student_transform
        self.pairs: tuple[Pair, ...] = ()
        self._pairs_wanted = pairs
        self._heads: tuple[Head | None, Head | None] = (None, None)
        self._student_extractor = FeatureExtractor(student, ())
        self._watching = False
        self._cached: CachedTeacher | None = None
        self._compiled: CompiledForOneShape[Distilled] | None = None
        context = None
        if example is not None:
            self._look(example)
            context = self._context(terms, train_labels)
        self.losses = WeightedLosses(terms, context)
        if example is not None:
            self._watch()

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Tensor | None = None,
        indices: Int[Tensor, " batch"] | None = None,
        view: int | None = None,
    ) -> Distilled:
        for name, value in (("labels", labels), ("indices", indices)):
            if value is None and name in self.signals:
                raise InputError(f"these losses look at {name}: call distiller(images, labels, indices) with them")
        if not self._watching:
            self._look(images)
            self._watch()
        self._begin_step(images)
        taught = self.teach(images, indices, view)
        if indices is not None:
            indices = indices.to(images.device, non_blocking=True) if "indices" in self.signals else None
        compiled = self._compiled if self.training and torch.is_grad_enabled() else None
        try:
            return (compiled or self._learn)(images, labels, indices, taught)
        except StageError as error:
            raise InputError(f"{self._stage_name(error.stage)}: {error.reason}") from None

    def _begin_step(self, images: Tensor) -> None:
        """Tell CUDA graphs that what the last step gave may be overwritten, but not yet what the teacher is going to give."""
        if self._compiled is not None and images.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def _learn(self, images: Tensor, labels: Tensor | None, indices: Tensor | None, taught: ModelOutput) -> Distilled:
        """The student's part: its forward, and what the losses make of it beside what the teacher showed."""
        shown = self._student_extractor(self._prepare(images))
        if not isinstance(shown.output, Tensor):  # networks with auxiliary heads speak so in training
            shown = replace(shown, output=shown.output.logits)
        if "teacher_logits" in self.signals:
            check_same_classes(taught.output, shown.output)
        if taught.outputs and self.teacher is not None:
            logits = taught.output.detach()
            taught = with_class_maps(taught, self.teacher.extractor, labels, logits, create_graph=False)
            create_graph = torch.is_grad_enabled()
            shown = with_class_maps(shown, self._student_extractor, labels, logits, create_graph=create_graph)
        signals = Signals(
            labels,
            indices,
            shown.output,
            taught.output,
            shown.embedding,
            taught.embedding,
            shown.features,
            taught.features,
        )
        terms = self.losses(signals)
        return Distilled(torch.stack(list(terms.values())).sum(), terms, shown.output)

    @property
    def live_terms(self) -> tuple[str, ...]:
        """The losses that need the live teacher, because they look at more than a cache can keep of it."""
        reductions = self.losses.reductions_by_loss
        return tuple(name for name, reduction in reductions.items() if not cacheable(reduction))

    def keep_answers(
        self, images: Tensor, open_cache: Callable[[Sequence[Field]], TeacherCache], top_logits: int | None = None
    ) -> TeacherCache:
        """Let the teacher answer from a cache from now on, for batches that come with their indices and their view.

        Args:
            images: an example, to see what the answers look like.
            open_cache: makes the cache of the fields that the losses look at.
            top_logits: how many of the largest logits are kept, the others only by what they weigh together; None for all.

        Raises InputError when a loss looks at more of the teacher than a cache can keep.
        """
        if not self._watching:
            self._look(images)
            self._watch()
        assert self.teacher is not None, "without a teacher there are no answers to keep"
        extractor = self.teacher.extractor
        if not self.needs_teacher:
            raise InputError(
                "no loss of this objective looks at the teacher: there is nothing to keep, leave out --cache"
            )
        check_cacheable(self.live_terms)
        shown = self.teacher(images, as_written=True)
        cache = open_cache(fields_of(shown, extractor, self.signals, len(images), top_logits))
        classes = shown.output.shape[1] if isinstance(shown.output, Tensor) else 0
        self._cached = CachedTeacher(self.teacher, extractor, cache, classes, top_logits)
        return cache

    def fill_cache(self, images: Tensor, indices: Tensor, view: int) -> int:
        """Let the teacher answer where its cache holds no answer yet; for how many images that was so."""
        assert self._cached is not None, "keep_answers comes first"
        self._begin_step(images)
        return self._cached.fill(images, indices, view)

    def live_answers(self, images: Tensor, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the teacher says to images now, of all that its cache keeps of them, in full precision."""
        assert self.teacher is not None and self._cached is not None, "keep_answers comes first"
        return self._cached.live(self.teacher(images, as_written=True), len(images), kept)

    def teach(self, images: Tensor, indices: Tensor | None, view: int | None) -> ModelOutput:
        """What the teacher shows, from the cache where there is one and the images are known by number."""
        if self.teacher is None or not self.needs_teacher:
            return ModelOutput(None, {}, None)
        if self._cached is not None and indices is not None and view is not None:
            return self._cached(images, indices, view)
        return self.teacher(images)

    def compile(self, *_: Any, teacher: bool = True, **options: Any) -> None:
        """Compile the teacher's forward, and the student's with all losses, by `torch.compile`, in place.

        Each is compiled when it is first called, for images of that shape: let that be a full batch. Batches of another shape,
        evaluation mode and calls without gradients run as before. The teacher's weights become constants of its code, batch normalisation
        folded into convolutions where it follows them: after a change of its weights, compile again.

        Args:
            teacher: whether its forward is compiled too.
            options: of the inductor backend, for example `max_autotune=True`; or `backend="eager"` and the like, for another.

        Parameters that no loss reaches then get gradients of zeros rather than none.

        Raises InputError for losses that look at gradients or at attention inside of the networks (Grad-CAM, class tokens),
        which cannot be compiled.
        """
        if any(reduction is not None and reduction.source != "features" for reduction in self.losses.reductions):
            raise InputError(
                "a loss looks at gradients or attention inside of the networks, which cannot be compiled: leave compilation out"
            )
        if self.teacher is not None and self.needs_teacher:
            self.teacher.compiled = CompiledForOneShape(self.teacher.look, frozen=True, **options) if teacher else None
        self._compiled = CompiledForOneShape(self._learn, **options)

    def uncompile(self) -> None:
        """Let everything run as it is written again."""
        self._compiled = None
        if self.teacher is not None:
            self.teacher.compiled = None

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let weights that have a schedule follow it: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        self.losses.set_epoch(epoch, epochs)

    def close(self) -> None:
        """Remove the hooks: both models are as they were."""
        self._student_extractor.close()
        if self.teacher is not None:
            self.teacher.extractor.close()

    def _stage_name(self, stage: int) -> str:
        pair = self.pairs[min(stage, len(self.pairs) - 1)]
        return f"stage {stage} (teacher's {pair.teacher}, student's {pair.student})"

    def _prepare(self, images: Tensor) -> Tensor:
        return self.student_transform(images) if self.student_transform is not None else images

    def _look(self, images: Tensor) -> None:
        """Find out what the losses want to know of both models: paired stages, classification layers."""
        if self.teacher is None or not self.needs_teacher:
            return
        taught, shown = self.teacher.prepare(images[:1]), self._prepare(images[:1])
        if self.signals & set(FEATURES):
            wanted = self._pairs_wanted
            if wanted is None or isinstance(wanted, str):
                wanted = pair_models(self.teacher.module, self.student, taught, shown, wanted)
            self.pairs = tuple(wanted)
        if self.signals & set(EMBEDDINGS):
            self._heads = find_head(self.teacher.module, taught), find_head(self.student, shown)

    def _context(self, terms: Sequence[Term], train_labels: Int[Tensor, " samples"] | None) -> LossContext:
        teacher_head, student_head = self._heads
        layer = self.teacher.module.get_submodule(teacher_head.path) if self.teacher and teacher_head else None
        weight = getattr(layer, "weight", None)
        looked_at = any("head_weight" in LOSSES[term.name].built_for for term in terms)
        weight = weight.detach().flatten(1) if weight is not None and looked_at else None
        if self.teacher is not None and self.teacher.mapping is not None and weight is not None:
            weight = self.teacher.mapping.head_weight(weight)
        return LossContext(
            student_shapes=tuple(pair.student.shape for pair in self.pairs),
            teacher_shapes=tuple(pair.teacher.shape for pair in self.pairs),
            student_dim=student_head.dim if student_head else 0,
            teacher_dim=teacher_head.dim if teacher_head else 0,
            head_weight=weight,
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
        """Training mode for student and losses; the teacher, and frozen parts of the student, stay in evaluation mode."""
        super().train(mode)
        for part in self.student.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
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
