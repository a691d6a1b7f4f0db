"""Losses on the features of paired stages that learn nothing themselves: AT, NST, FSP and ReviewKD's context loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import match_sizes, mechanism
from angularkd.losses.checks import (
    checked_levels,
    full_precision,
    map_pair,
    one_precision,
    require_equal_channels,
    require_paired,
    require_positions,
    stage_pairs,
)
from angularkd.types import Reduction


class AttentionTransfer(nn.Module):
    """Attention transfer: the student's normalised attention maps approach the teacher's, summed over the stages.

    For one stage with features A:

        P[b, h, w] = sum_c |A[b, c, h, w]| ** power,       unit(P) = P / ||P||_2 over the positions of one sample
        L_stage    = mean over batch and positions of (unit(P_student) - unit(P_teacher)) ** 2         squared
                   = mean over the batch of || unit(P_student) - unit(P_teacher) ||_2                  not squared

    Args:
        power: exponent of the channel-wise power map, 1 or more.
        squared: the mean squared difference of the authors' code and of the field; False is equation 2 of the paper.
        attention: another mechanism that makes P, a name in `angularkd.features.ATTENTIONS`.

    Raises:
        InputError: for a power below 1 and an attention of an unknown name.

    Paper: Zagoruyko & Komodakis, arXiv 1612.03928. Departure: where the sizes differ the larger power map is
    average-pooled to the smaller (others pool the features, which a stored map no longer allows). Maps are computed in
    float32 at least.
    """

    def __init__(self, power: float = 2.0, squared: bool = True, attention: str = "power") -> None:
        super().__init__()
        self.reduction = mechanism(attention, power)
        self.squared = squared

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0: at most 2 / positions a stage when squared (its usual weight is 1000), else sqrt(2).

        Args:
            student_features: one tensor a stage, either features [batch, channel, height, width] or a power map [batch, height,
                width] that was made already.
            teacher_features: the same of the teacher, of any channels and sizes; they get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, and maps of a single position.
        """
        require_paired("attention transfer", student_features, teacher_features)
        with full_precision(student_features[0]):
            stages = enumerate(zip(student_features, teacher_features, strict=True))
            return torch.stack([self._stage(i, s, t) for i, (s, t) in stages]).sum()

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        student, teacher = unit_maps(index, student, teacher, self.reduction)
        if self.squared:
            return F.mse_loss(student, teacher)
        distances: Tensor = torch.linalg.vector_norm(student - teacher, dim=1)
        return distances.mean()


class NeuronSelectivityTransfer(nn.Module):
    """NST: the distribution of the student's channel activations approaches the teacher's, summed over the stages.

    For one stage, with x_i the activations of the student's channel i over the positions and y_j the teacher's channel
    j, each of unit length, and the polynomial kernel k(x, y) = (x . y) ** 2:

        L_stage = mean_ij k(y_i, y_j) + mean_ij k(x_i, x_j) - 2 mean_ij k(x_i, y_j)         then the mean over the batch

    This is the squared maximum mean discrepancy of the two sets of channels.

    Paper: Huang & Wang, arXiv 1707.01219. Departures: none for the kernel that the paper recommends (degree 2, offset
    0); its linear and Gaussian kernels are left out. The products are formed as matrices, never position by position,
    and in float32 at least.
    """

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar in 0..2 a stage; its usual weight is 50.

        Args:
            student_features: [batch, channel, height, width], one a stage.
            teacher_features: the same of the teacher, of any channels; where the sizes differ the larger features are
                average-pooled to the smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, and maps of a single position.
        """
        pairs = stage_pairs("NST", student_features, teacher_features)
        with full_precision(student_features[0]):
            return torch.stack([self._stage(i, s, t) for i, (s, t) in enumerate(pairs)]).sum()

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        student, teacher = match_sizes(student, teacher)
        require_positions(index, student)
        student, teacher = (F.normalize(features.flatten(2), dim=2) for features in (student, teacher))
        return (
            _kernel(teacher, teacher).mean() + _kernel(student, student).mean() - 2 * _kernel(student, teacher).mean()
        )


class SolutionFlow(nn.Module):
    """FSP: the products of one stage's channels with the next stage's equal the teacher's, summed over such steps.

    For features A of one stage and B of the next, in one network, brought to the same size:

        G[b, i, j] = mean over positions of A[b, i, h, w] * B[b, j, h, w]
        L          = sum over consecutive stages of the mean over batch, i and j of (G_student - G_teacher) ** 2

    Args:
        per_element: the mean over the entries of G, as the field has it; False is the paper's sum over them (still the
            mean over the batch).
        max_pooling: the larger of two consecutive stages is brought to the smaller by maxima, as in the paper, instead
            of averages.

    Paper: Yim, Joo, Bae & Kim, A Gift from Knowledge Distillation, CVPR 2017 (no arXiv version). Departure: the paper
    minimises this alone first and then trains on the labels; here it is a term beside the others. The products are
    computed in float32 at least.
    """

    def __init__(self, per_element: bool = True, max_pooling: bool = False) -> None:
        super().__init__()
        self.per_element = per_element
        self.max_pooling = max_pooling

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in the fourth power of the features' unit.

        Args:
            student_features: [batch, channel, height, width], one a stage, of two stages or more.
            teacher_features: the same of the teacher, of equal channels at each stage and any sizes; they get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, a single stage, unequal batches or channels.
        """
        pairs = stage_pairs("FSP", student_features, teacher_features)
        if len(pairs) < 2:
            raise InputError("FSP compares consecutive stages, got a single one: pair two stages or more")
        for index, (student, teacher) in enumerate(pairs):
            require_equal_channels(index, student, teacher, "use 'at', 'nst' or 'amd', which need no equality")
        with full_precision(student_features[0]):
            return torch.stack([self._step(*step) for step in pairwise(pairs)]).sum()

    def _step(self, here: tuple[Tensor, Tensor], following: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        student, teacher = (self._flow(a, b) for a, b in zip(here, following, strict=True))
        squares = (student - teacher).square()
        return squares.mean() if self.per_element else squares.sum(dim=(1, 2)).mean()

    def _flow(self, here: Tensor, following: Tensor) -> Float[Tensor, "batch channel_1 channel_2"]:
        if self.max_pooling:
            size = (min(here.shape[2], following.shape[2]), min(here.shape[3], following.shape[3]))
            here, following = F.adaptive_max_pool2d(here, size), F.adaptive_max_pool2d(following, size)
        else:
            here, following = match_sizes(here, following)
        return here.flatten(2) @ following.flatten(2).mT / here[0, 0].numel()


class HierarchicalContext(nn.Module):
    """ReviewKD's context loss: features agree at their own size and at coarser ones, summed over the stages.

    For one stage of size h x w, with the features' averages over an l x l grid for each coarser level l:

        L_stage = sum_l weight_l * mse(pool_l(A_student), pool_l(A_teacher)) / sum_l weight_l

    where the whole size comes first with weight 1, and each level that is coarser than it follows with half the weight
    before; mse is the mean over batch, channels and positions. `ReviewKD` puts the learned fusion before it.

    Args:
        levels: the sides of the grids, from fine to coarse, 1 or more each. A level that exceeds one side of a non-square map
            keeps that side.

    Raises:
        InputError: for levels below 1.

    Paper: Chen, Liu, Zhao & Jia, Distilling Knowledge via Knowledge Review, arXiv 2104.09044; the weights of the levels
    are those of its published code. Departures: none.
    """

    def __init__(self, levels: Sequence[int] = (4, 2, 1)) -> None:
        super().__init__()
        self.levels = checked_levels(levels)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in the square of the features' unit.

        Args:
            student_features: [batch, channel, height, width], one a stage.
            teacher_features: the same of the teacher, of equal channels; where the sizes differ the larger features are
                average-pooled to the smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches or channels.
        """
        pairs = stage_pairs("the hierarchical context loss", student_features, teacher_features)
        for index, (student, teacher) in enumerate(pairs):
            require_equal_channels(index, student, teacher, "use 'review', which learns to project")
        with full_precision(student_features[0]):
            return torch.stack([context_distance(*match_sizes(s, t), self.levels) for s, t in pairs]).sum()


def context_distance(
    student: Float[Tensor, "batch channel height width"],
    teacher: Float[Tensor, "batch channel height width"],
    levels: Sequence[int],
) -> Float[Tensor, ""]:
    """Return the hierarchical context loss of one stage; see `HierarchicalContext`."""
    height, width = student.shape[2:]
    sizes = [(min(level, height), min(level, width)) for level in levels]
    coarser = [size for size in sizes if size != (height, width)]
    distances = [F.mse_loss(student, teacher)]
    for size in coarser:
        distances.append(F.mse_loss(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)))
    weights = [0.5**i for i in range(len(distances))]
    return torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum() / sum(weights)


def unit_maps(
    stage: int, student: Tensor, teacher: Tensor, reduction: Reduction
) -> tuple[Float[Tensor, "maps positions"], Float[Tensor, "maps positions"]]:
    """Return the attention maps of features, or maps as they are, of one size and of unit length over a sample's positions.

    Raises InputError, naming the stage, where `map_pair` does.
    """
    student, teacher = map_pair(stage, *one_precision(student, teacher), reduction)
    return F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1))


def _kernel(
    first: Float[Tensor, "batch channel_1 positions"], second: Float[Tensor, "batch channel_2 positions"]
) -> Float[Tensor, "batch channel_1 channel_2"]:
    return (first @ second.mT).square()
