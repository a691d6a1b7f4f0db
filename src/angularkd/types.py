"""The values that flow between the rooms: batches in, signals through, loss terms out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Features = list[Tensor]
"""One tensor a stage: [batch, channel, height, width], or [batch, height, width] where only a map of it was extracted."""

Logits = Float[Tensor, "batch classes"]

Source = Literal["features", "gradients", "tokens", "before activation"]
"""What a reduction is called with (`angularkd.features.attention`)."""


@runtime_checkable
class Reduction(Protocol):
    """The form in which losses need a stage's features: maps [batch, height, width], or those before the activation.

    It is hashable, so that losses with equal reductions share them.

    Attributes:
        source: what it is called with.
        signals: fields of `Signals` that it uses beside the features.
    """

    source: ClassVar[Source]

    @property
    def signals(self) -> frozenset[str]:
        """Return the fields of `Signals` that it uses beside the features."""
        ...

    def __call__(self, *inputs: Any) -> Tensor:
        """Return what `source` names in this form."""
        ...


Terms = dict[str, Tensor]
"""Scalar loss terms by name, each already multiplied by its weight: they sum to the total."""


@dataclass(frozen=True)
class Batch:
    """A batch of augmented images and where they came from.

    Attributes:
        images: float32 RGB in 0..1, [batch, 3, height, width], channels_last in memory, on the loader's device;
            not normalised, because teacher and student may each need a mean and a standard deviation of their own.
        labels: class indices, or soft labels where images were mixed: a share of each class.
        indices: row of each sample in its split, on the host, where a cache reads them without waiting for the device.
        view: which augmentation of the samples this is: (index, view) names an image for good; None where images were mixed.
    """

    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
    indices: Int[Tensor, " batch"]
    view: int | None


@dataclass(frozen=True)
class Signals:
    """Everything a loss may use, by name; what no loss of a run uses is absent.

    Attributes:
        labels, indices: classes of the batch's samples, and their rows in the training split.
        student_logits, teacher_logits: [batch, classes].
        student_embedding, teacher_embedding: [batch, dim], the input of a model's classification layer; of a teacher that has none,
            its output.
        student_features, teacher_features: those of the paired stages, once for each reduction that some loss uses; `None` stands
            for whole features.
        student_distillation_logits: [batch, classes], of a second head of the student, which learns from the teacher.
    """

    labels: Tensor | None = None
    indices: Int[Tensor, " batch"] | None = None
    student_logits: Logits | None = None
    teacher_logits: Logits | None = None
    student_embedding: Float[Tensor, "batch student_dim"] | None = None
    teacher_embedding: Float[Tensor, "batch teacher_dim"] | None = None
    student_features: Mapping[Reduction | None, Features] = field(default_factory=dict)
    teacher_features: Mapping[Reduction | None, Features] = field(default_factory=dict)
    student_distillation_logits: Logits | None = None


@dataclass(frozen=True)
class LossContext:
    """What losses with learned parts are built for: two models, their paired stages, and a training split.

    Attributes:
        student_shapes, teacher_shapes: (channels, height, width) of each paired stage.
        student_dim, teacher_dim: width of the embeddings, 0 where no loss uses them.
        head_weight: weight of the teacher's classification layer, [classes, teacher_dim]; None where it has none.
        class_logits: the teacher's logits of some training images of each class, [classes, samples, classes]; None where no loss uses them.
        num_classes: of the student's logits, 0 where no loss is built for it.
        labels: class of each row of the training split.
        num_samples: its length.
    """

    student_shapes: tuple[tuple[int, int, int], ...] = ()
    teacher_shapes: tuple[tuple[int, int, int], ...] = ()
    student_dim: int = 0
    teacher_dim: int = 0
    head_weight: Tensor | None = None
    class_logits: Tensor | None = None
    num_classes: int = 0
    labels: Int[Tensor, " samples"] | None = None
    num_samples: int = 0


class Distilled(NamedTuple):
    """The result of a training step: the loss to differentiate, its weighted terms by name, and the student's logits."""

    total: Float[Tensor, ""]
    terms: Terms
    student_logits: Logits
