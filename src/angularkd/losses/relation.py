"""Losses on relations between the samples of a batch: SP, CC, PKT and RKD. All of them need a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.losses.checks import (
    embedding_pair,
    full_precision,
    require_at_least,
    require_positive,
    require_samples,
    require_weight,
    stage_pairs,
    unit_rows,
)


class SimilarityPreserving(nn.Module):
    """SP: samples that excite the teacher alike excite the student alike, summed over the stages.

    For one stage, with the features of a sample as one row of A [batch, channel * height * width]:

        G       = A A^T, each row of it divided by its Euclidean norm                                   [batch, batch]
        L_stage = mean over all entries of (G_student - G_teacher) ** 2

    The paper and its users compare the last stage alone, as the table of losses does by default.

    Paper: Tung & Mori, arXiv 1907.09682. Departures: a sample without any activation has a small gradient, where dividing by its
    norm of 0 gives 1e12. The products are computed in float32 at least.
    """

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar within 0 .. 4 / batch a stage; its usual weight is 3000.

        Args:
            student_features: [batch, channel, height, width], one a stage.
            teacher_features: the same of the teacher, of any channels and sizes; they get no gradient.

        Raises:
            InputError: for sequences of unequal length, unequal batches, and a batch of one sample.
        """
        pairs = stage_pairs("SP", student_features, teacher_features)
        for student, _ in pairs:
            require_samples("SP", student)
        with full_precision(student_features[0]):
            return torch.stack([F.mse_loss(_similarities(s), _similarities(t)) for s, t in pairs]).sum()


class CorrelationCongruence(nn.Module):
    """CC: the correlation between the student's samples approaches that between the teacher's.

    With embeddings x_i of the student and y_i of the teacher, in a batch of B:

        neighbours   d_i = |x_i - y_i|;     mean over i < B of sum_k d_i[k] * d_(i+1)[k]
        rbf          C_ij = exp(-2 gamma) * sum_(p = 0..order) (2 gamma)**p / p! * cos(x_i, x_j)**p
                     mean over i and j of (C_student - C_teacher) ** 2

    `neighbours` is the field's convention (RepDistiller's, which had it from the paper's author); it depends on the
    order of the batch. `rbf` is the paper's own: the Gaussian kernel exp(-gamma * ||x_i - x_j||**2) of embeddings of
    unit length, as a Taylor series.

    Args:
        variant: "neighbours" or "rbf".
        gamma: width > 0 of the Gaussian kernel, of `rbf` alone. The paper uses 0.4.
        order: highest power of its series, 1 or more, of `rbf` alone. The paper uses 2.
        student_dim: width of the student's embedding. With both widths, learned linear maps bring the embeddings to
            `projection_dim` first, as RepDistiller does; without them, they are compared as they come.
        teacher_dim: width of the teacher's embedding.
        projection_dim: the common width.

    Raises:
        InputError: for an unknown variant, an option out of its range, and one width without the other.

    Paper: Peng, Jin, Liu, Zhou, Wu, Liu, Li & Zhang, arXiv 1904.01802. Computed in float32 at least.
    """

    def __init__(
        self,
        variant: Literal["neighbours", "rbf"] = "neighbours",
        gamma: float = 0.4,
        order: int = 2,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        projection_dim: int = 128,
    ) -> None:
        super().__init__()
        if variant not in ("neighbours", "rbf"):
            raise InputError(f"variant must be 'neighbours' or the paper's 'rbf', got {variant!r}")
        self.gamma = require_positive("gamma", gamma, usual=0.4)
        require_at_least("order", order, 1, "below it every kernel is a constant, the usual value is 2")
        if (student_dim is None) != (teacher_dim is None):
            raise InputError(f"give both student_dim and teacher_dim, or neither, got {student_dim} and {teacher_dim}")
        self.variant = variant
        self.order = order
        self.student_projection = nn.Linear(student_dim, projection_dim) if student_dim else nn.Identity()
        self.teacher_projection = nn.Linear(teacher_dim, projection_dim) if teacher_dim else nn.Identity()

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0, which identical embeddings bring to 0.

        Args:
            student_embedding: [batch, student_dim].
            teacher_embedding: [batch, teacher_dim]; `neighbours` without maps needs the student's width. It gets no gradient, but
                its map learns.

        Raises:
            InputError: for unequal widths as said, unequal batches, and a batch of one sample.
        """
        pair = embedding_pair("CC", student_embedding, teacher_embedding)
        with full_precision(student_embedding):
            student: Tensor = self.student_projection(pair[0])
            teacher: Tensor = self.teacher_projection(pair[1])
            if self.variant == "rbf":
                return F.mse_loss(self._kernel(student), self._kernel(teacher))
            if student.shape[1] != teacher.shape[1]:
                raise InputError(
                    f"CC subtracts embeddings, and the student's holds {student.shape[1]} numbers, the teacher's "
                    f"{teacher.shape[1]}: give student_dim and teacher_dim, or use variant='rbf'"
                )
            distances = (student - teacher).abs()
            return (distances[:-1] * distances[1:]).sum(dim=1).mean()

    def _kernel(self, embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
        unit = unit_rows(embedding)
        cosines = unit @ unit.mT
        powers = range(self.order + 1)
        series = torch.stack([(2 * self.gamma) ** p / math.factorial(p) * cosines**p for p in powers])
        return math.exp(-2 * self.gamma) * series.sum(dim=0)


class ProbabilisticKnowledgeTransfer(nn.Module):
    """PKT: which samples are near which, as probabilities, is the same in the student's space as in the teacher's.

    With embeddings x_i in a batch of B, each divided by its norm + eps (one no longer than eps is left as it is):

        K_ij = (cos(x_i, x_j) + 1) / 2,     p_ij = K_ij / sum_j K_ij
        L    = mean over i and j of  p_ij * log( (p_ij + eps) / (q_ij + eps) ),      p the teacher's, q the student's

    Args:
        exclude_self: leave i = j out of all sums and means, as the paper does. Its authors' code, which the field
            follows, counts them in.
        eps: the guard of norms and logarithms, above 0.

    Raises:
        InputError: for an eps that is not positive.

    Paper: Passalis & Tefas, arXiv 1803.10837. Departures: the mean over the pairs, as in the authors' code, is the sum
    in the paper; an embedding of zeros has a small gradient, where the authors' code gives NaN. Computed in float32 at
    least.
    """

    def __init__(self, exclude_self: bool = False, eps: float = 1e-7) -> None:
        super().__init__()
        self.exclude_self = exclude_self
        self.eps = require_positive("eps", eps, usual=1e-7)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats, far below 1 / batch: its usual weight is 30000.

        Args:
            student_embedding: [batch, student_dim].
            teacher_embedding: [batch, teacher_dim]; it gets no gradient.

        Raises:
            InputError: for unequal batches, and a batch of one sample (of two with exclude_self: a single neighbour always has
                probability 1).
        """
        pair = embedding_pair("PKT", student_embedding, teacher_embedding, at_least=3 if self.exclude_self else 2)
        with full_precision(student_embedding):
            student, teacher = self._probabilities(pair[0]), self._probabilities(pair[1])
            divergence = teacher * torch.log((teacher + self.eps) / (student + self.eps))
            others = len(student) - 1 if self.exclude_self else len(student)
            return divergence.sum() / (len(student) * others)

    def _probabilities(self, embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
        norms: Tensor = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
        unit = embedding / torch.where(norms > self.eps, norms + self.eps, 1.0)
        kernel = ((unit @ unit.mT + 1) / 2).clamp(min=0)
        if self.exclude_self:
            kernel = kernel * (1 - torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device))
        return kernel / kernel.sum(dim=1, keepdim=True).clamp(min=self.eps)


class RelationalKD(nn.Module):
    """RKD: distances between two samples, and angles among three, are the same in both spaces.

    With embeddings x_i, e_ij = (x_j - x_i) / ||x_j - x_i||, and h the Huber function with its bend at 1:

        D_ij = ||x_i - x_j|| / mean of all distances > 0,      A_ijk = <e_ij, e_ik>, the cosine of the angle at i
        distance_weight * mean_ij h(D_student - D_teacher) + angle_weight * mean_ijk h(A_student - A_teacher)

    Args:
        distance_weight: of the distances, 0 or more. The authors use 25 for classification.
        angle_weight: of the angles, 0 or more. The authors use 50 for classification.

    Raises:
        InputError: for negative weights.

    Paper: Park, Kim, Lu & Cho, arXiv 1904.05068. Departures: the means run over all i, j, k, as in the authors' code
    (the paper sums over distinct samples); distances are norms of differences, not roots of differences of products;
    and samples that coincide have distance 0 and no direction, without the gradients of 1e6 and more of that code.
    Computed in float32 at least.
    """

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight = require_weight("distance_weight", distance_weight)
        self.angle_weight = require_weight("angle_weight", angle_weight)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 without a unit, from batch**2 * (batch + dim) numbers of memory.

        Two samples are always alike: the signal begins at three.

        Args:
            student_embedding: [batch, student_dim].
            teacher_embedding: [batch, teacher_dim]; it gets no gradient.

        Raises:
            InputError: for unequal batches, and a batch of one sample.
        """
        pair = embedding_pair("RKD", student_embedding, teacher_embedding)
        with full_precision(student_embedding):
            student_distances, student_angles = _distances_and_angles(pair[0])
            teacher_distances, teacher_angles = _distances_and_angles(pair[1])
            distance = F.smooth_l1_loss(student_distances, teacher_distances)
            angle = F.smooth_l1_loss(student_angles, teacher_angles)
            return self.distance_weight * distance + self.angle_weight * angle


def _similarities(features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch batch"]:
    rows = features.flatten(1)
    return unit_rows(rows @ rows.mT)


def _distances_and_angles(
    embedding: Float[Tensor, "batch dim"],
) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch batch"]]:
    """Return distances over their mean, and cosines [i, j, k] of the angle at i between j and k; 0 where samples coincide."""
    differences = embedding.unsqueeze(0) - embedding.unsqueeze(1)
    distances = torch.linalg.vector_norm(differences, dim=2)
    apart = distances > 0
    mean = distances.sum() / apart.sum().clamp(min=1)
    directions = differences / torch.where(apart, distances, 1.0).unsqueeze(2)
    return distances / torch.where(mean > 0, mean, 1.0), directions @ directions.mT
