"""What one dry forward of both networks says about a distillation: which stages teach which, and where embeddings are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.distillation.teacher import Teacher
from angularkd.errors import InputError
from angularkd.features import Head, Pair, PreActivation, Trace, embedding_of, head_of, pair_models
from angularkd.losses import EMBEDDINGS, FEATURES, Term, WeightedLosses, notes_of
from angularkd.types import Logits, LossContext, Reduction

SMALL_MAP = 64
"""Positions of a map that has little to say of where an object is: those of an image of 8x8 pixels."""


@dataclass(frozen=True)
class Match:
    """What belongs together of a teacher and a student, as far as the losses need it.

    Attributes:
        pairs: which stages teach which.
        teacher_head, student_head: the layers whose inputs are the embeddings.
        num_classes: of the student's logits, where a loss is built for it, else 0.
    """

    pairs: tuple[Pair, ...] = ()
    teacher_head: Head | None = None
    student_head: Head | None = None
    num_classes: int = 0

    @property
    def calls_for_caution(self) -> bool:
        """Return whether maps should not get most of the gradient: the student's are of tokens, or all of them are small.

        With nine tenths of it for AMD, a small transformer stayed at chance, and students of 8x8 pixels learned more slowly
        (docs/results.md).
        """
        of_tokens = any(pair.student.layout == "tokens" for pair in self.pairs)
        return of_tokens or all(math.prod(pair.size) <= SMALL_MAP for pair in self.pairs)

    def stage_name(self, stage: int) -> str:
        """Return how messages call the stage at a position among the pairs."""
        pair = self.pairs[min(stage, len(self.pairs) - 1)]
        return f"stage {stage} (teacher's {pair.teacher}, student's {pair.student})"

    def notes(self, losses: WeightedLosses, classes: int) -> list[str]:
        """Return what losses have to say of these pairs, and of so many classes."""
        return notes_of(losses, [pair.size for pair in self.pairs], classes)

    def check_compiles(self, reductions: Sequence[Reduction | None]) -> None:
        """Check that what losses compare can be had in compiled code.

        Args:
            reductions: in what forms losses compare the stages.

        Raises:
            InputError: for gradients and attention inside of the networks, and for features before an activation function that
                compiled code does not show.
        """
        if any(reduction is not None and reduction.source in ("gradients", "tokens") for reduction in reductions):
            raise InputError(
                "a loss uses gradients or attention inside of the networks, which cannot be compiled: leave compilation out"
            )
        if PreActivation() not in reductions:
            return
        for stage in (stage for pair in self.pairs for stage in (pair.teacher, pair.student)):
            if stage.before_activation is not None and not stage.before_activation.compiles:
                raise InputError(
                    f"{stage} ends in an activation that cannot be observed in compiled code: end it in F.relu or a module, "
                    "or leave compilation out"
                )

    def context(
        self,
        teacher: Teacher | None,
        terms: Sequence[Term],
        train_labels: Int[Tensor, " samples"] | None,
        class_logits: Float[Tensor, "classes samples classes"] | None = None,
    ) -> LossContext:
        """Return what losses with learned parts are built for.

        Args:
            teacher: whose classification layer some losses use.
            terms: the losses.
            train_labels: the class of each row of the training split.
            class_logits: the teacher's logits of some training images of each class.
        """
        head_weight = None
        if teacher is not None and self.teacher_head is not None and built_for("head_weight", terms):
            head_weight = teacher.head_weight(self.teacher_head)
        return LossContext(
            student_shapes=tuple(pair.student.shape for pair in self.pairs),
            teacher_shapes=tuple(pair.teacher.shape for pair in self.pairs),
            student_dim=self.student_head.dim if self.student_head else 0,
            teacher_dim=self.teacher_head.dim if self.teacher_head else 0,
            head_weight=head_weight,
            class_logits=class_logits,
            num_classes=self.num_classes,
            labels=train_labels,
            num_samples=len(train_labels) if train_labels is not None else 0,
        )


def match(
    teacher: Teacher,
    student: nn.Module,
    terms: Sequence[Term],
    images: Tensor,
    student_trace: Callable[[], Trace],
    pairs: Sequence[Pair] | str | None = None,
) -> Match:
    """Match teacher and student by their traces.

    Args:
        teacher: the teacher.
        student: the student's network.
        terms: the losses, which decide what is needed of both.
        images: one image of the shape that will come.
        student_trace: gives the student's trace; it is called only where it is needed.
        pairs: `Pair`s, or text that names them; None to pair by stride.

    Raises:
        InputError: when stages cannot be paired, or a network has no embedding.
    """
    signals = {name for term in terms for name in term.signals}
    on_embeddings, through_head = bool(signals & set(EMBEDDINGS)), built_for("head_weight", terms)
    classes = (student_trace().output_shape or (0,))[-1] if built_for("num_classes", terms) else 0
    if not (through_head or on_embeddings or signals & set(FEATURES)):
        return Match(num_classes=classes)
    teacher_trace, traced_student = teacher.trace(images), student_trace()
    paired: Sequence[Pair] = ()
    if signals & set(FEATURES):
        named = pairs is None or isinstance(pairs, str)
        paired = pair_models(teacher.module, student, teacher_trace, traced_student, pairs) if named else pairs  # type: ignore[arg-type,assignment]
    return Match(
        tuple(paired),
        embedding_of(teacher_trace, teacher.module) if on_embeddings or through_head else None,
        head_of(traced_student, student) if on_embeddings else None,
        classes,
    )


def built_for(what: str, terms: Sequence[Term]) -> bool:
    """Return whether a loss is built for a field of `LossContext`."""
    return any(what in term.row.built_for for term in terms)


def use_distillation_head(student: nn.Module) -> None:
    """Have a student give the logits of both its heads in training, where it is a timm model that does so on request."""
    switch = getattr(student, "set_distilled_training", None)
    if switch is not None:
        switch(True)


def check_same_classes(teacher_logits: Logits | None, student_logits: Logits | None) -> None:
    """Check that teacher and student tell apart the same number of classes.

    Raises:
        InputError: where they do not.
    """
    shapes = [list(logits.shape) if logits is not None else "none" for logits in (teacher_logits, student_logits)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"the teacher gives logits {shapes[0]}, the student {shapes[1]}: "
            "give the student the teacher's classes, or leave out the losses that compare logits"
        )
