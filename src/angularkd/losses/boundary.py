"""Losses on activation boundaries, on where the teacher is active before how much: AB, and its overhaul OFD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.losses.checks import require_positive
from angularkd.losses.projectors import Shapes, conv_with_norm, projected_pairs, stage_channels, where_needed


class ActivationBoundaries(nn.Module):
    """AB: the student's neurons become active where the teacher's are, by a margin, summed over the stages.

    For one stage with pre-activation features S (student, projected) and T (teacher), of n stages:

        L_stage = weight_i * scale / batch * sum over all elements of   relu(margin - S) ** 2    where T > 0
                                                                        relu(margin + S) ** 2    where T <= 0

    with weight_i = 2 ** (i - n + 1), so that the last stage has 1.

    Args:
        student_shapes: (channels, height, width) of each stage. With shapes, a stage whose channels differ is projected by a
            1 x 1 convolution with batch normalisation; without them the channels must be equal.
        teacher_shapes: the same of the teacher.
        margin: mu > 0, how far beyond zero the student has to go.
        scale: 3 / 1000, as in the published code; 1 is the paper's plain sum.
        stage_weights: one weight a stage instead of the doubling ones; ones for the paper's.

    Raises:
        InputError: for a margin that is not positive, and shapes that do not fit each other.

    Paper: Heo, Lee, Yun & Choi, arXiv 1811.03233. Departures: a term beside the others, where the paper initialises the
    student with this alone; the sizes are matched by pooling instead of by strided convolutions.
    """

    def __init__(
        self,
        student_shapes: Shapes | None = None,
        teacher_shapes: Shapes | None = None,
        margin: float = 1.0,
        scale: float = 3e-3,
        stage_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.margin = require_positive("margin", margin, usual=1)
        self.projectors = where_needed(student_shapes, teacher_shapes, conv_with_norm)
        self.scale = scale
        self.stage_weights = stage_weights

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0. The minimum 0 asks for |S| >= margin: student = teacher is not enough.

        Args:
            student_features: [batch, channel, height, width], one a stage, from before its activation (after a ReLU the
                teacher is never negative, only zero); a `Distiller` takes them there.
            teacher_features: the same of the teacher; where the sizes differ the larger features are average-pooled to the
                smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, channels that nothing projects, and
                stage_weights of another number.
        """
        pairs = projected_pairs("AB", self.projectors, student_features, teacher_features)
        weights = doubling_weights(len(pairs)) if self.stage_weights is None else self.stage_weights
        if len(weights) != len(pairs):
            raise InputError(f"AB got {len(weights)} stage_weights for {len(pairs)} stages: give one a stage, or none")
        return torch.stack([w * self._stage(s, t) for w, (s, t) in zip(weights, pairs, strict=True)]).sum()

    def _stage(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        towards = torch.where(teacher > 0, student, -student)
        return F.relu(self.margin - towards).square().sum() * (self.scale / student.shape[0])


class FeatureOverhaul(nn.Module):
    """OFD: features agree where the teacher responds, or where the student should not, summed over the stages.

    For one stage of n, with S the student's features through a 1 x 1 convolution with batch normalisation, and T the
    teacher's:

        margin_c = mean of the negative values of T's channel c in the batch, 0 where there are none
        target   = max(T, margin)                                                               the margin ReLU
        L_stage  = 2 ** (i - n + 1) / batch * sum of (S - target) ** 2 where S > target or target > 0    the partial L2

    Args:
        student_shapes: (channels, height, width) of each stage.
        teacher_shapes: the same of the teacher.

    Raises:
        InputError: for shapes that do not fit each other.

    Paper: Heo, Kim, Yun, Park, Kwak & Choi, arXiv 1904.01866. Departure: the margin is the expectation of a negative
    response. The published code derives it from the teacher's batch normalisation, taken for a Gaussian; a loss that
    knows tensors only measures it on the features themselves, on each batch anew.
    """

    def __init__(self, student_shapes: Shapes, teacher_shapes: Shapes) -> None:
        super().__init__()
        channels = stage_channels(student_shapes, teacher_shapes)
        self.connectors = nn.ModuleList(conv_with_norm(s, t) for s, t in channels)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in the square of the features' unit. The margins need the whole batch.

        It is a sum over the elements, so its weight is small (1e-3 in the published code for CIFAR, 1e-4 for ImageNet).

        Args:
            student_features: [batch, channel, height, width], one a stage, from before its activation (after a ReLU all margins
                are 0); a `Distiller` takes them there.
            teacher_features: the same of the teacher; where the sizes differ the larger features are average-pooled to the
                smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, shapes that are not those that the
                loss was built for, and a single value a channel (batch normalisation has no use for it).
        """
        pairs = projected_pairs("OFD", self.connectors, student_features, teacher_features)
        weights = doubling_weights(len(pairs))
        return torch.stack([w * self._stage(s, t) for w, (s, t) in zip(weights, pairs, strict=True)]).sum()

    def _stage(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        target = torch.maximum(teacher, negative_mean(teacher))
        counted = (student > target) | (target > 0)
        return torch.where(counted, student - target, 0.0).square().sum() / student.shape[0]


def doubling_weights(stages: int) -> list[float]:
    """Return 1 for the last stage, and half as much for each one before."""
    return [2.0 ** (index - stages + 1) for index in range(stages)]


def negative_mean(features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "channel 1 1"]:
    """Return the mean of each channel's negative values over batch and positions, 0 where there are none."""
    count = (features < 0).sum(dim=(0, 2, 3)).clamp(min=1)
    return (features.clamp(max=0).sum(dim=(0, 2, 3)) / count)[:, None, None]
