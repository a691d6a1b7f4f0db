"""Losses whose learned modules link the stages with each other: ReviewKD and AFD."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import PowerMap, match_sizes, widen
from angularkd.losses.checks import (
    checked_levels,
    full_precision,
    refusal,
    require_at_least,
    require_equal_channels,
    require_features,
    require_positions,
    require_stages,
    require_values,
)
from angularkd.losses.feature import context_distance
from angularkd.losses.projectors import Shapes, channels_of, pairs_as_built, project, stage_channels


class ReviewKD(nn.Module):
    """Knowledge review: a stage of the student, fused with all deeper ones, equals the teacher's, summed over them.

    From the last stage to the first, with R_i the residual that stage i hands to the one before it:

        U_i     = norm(1 x 1 convolution of A_student,i)                                         mid_channels
        R_i     = U_i * g_1 + up(R_{i+1}) * g_2,     g = sigmoid(1 x 1 convolution of [U_i, up(R_{i+1})]),     R_n = U_n
        L_stage = context(norm(3 x 3 convolution of R_i), A_teacher,i)

    up repeats the nearest value to U_i's size; norm is batch normalisation; context is the hierarchical
    distance of `angularkd.losses.feature.HierarchicalContext`.

    Args:
        student_shapes: (channels, height, width) of each stage, from shallow to deep.
        teacher_shapes: the same of the teacher.
        mid_channels: of the fusion, 1 or more; None for those of the student's last stage, at most 512.
        levels: the sides of the coarser grids of the hierarchical distance, 1 or more each.

    Raises:
        InputError: for an option out of its range, and shapes that do not fit each other.

    Paper: Chen, Liu, Zhao & Jia, arXiv 2104.09044. Departures: sizes are pooled, where the published code repeats or
    drops values of the student's; the embedding is no stage of its own unless it is given as one of 1 x 1; the weight's
    warm-up is the caller's.
    """

    def __init__(
        self,
        student_shapes: Shapes,
        teacher_shapes: Shapes,
        mid_channels: int | None = None,
        levels: Sequence[int] = (4, 2, 1),
    ) -> None:
        super().__init__()
        channels = stage_channels(student_shapes, teacher_shapes)
        mid = min(512, channels[-1][0]) if mid_channels is None else mid_channels
        require_at_least("mid_channels", mid, 1, "None takes those of the student's last stage")
        last = len(channels) - 1
        self.fusions = nn.ModuleList(_Fusion(s, mid, t, gated=i < last) for i, (s, t) in enumerate(channels))
        self.levels = checked_levels(levels)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in the square of the features' unit; distances are taken in float32 at least.

        Args:
            student_features: [batch, channel, height, width], one a stage, from shallow to deep, from before its activation, where a
                `Distiller` takes them.
            teacher_features: the same of the teacher; where the sizes differ the larger of fused and teacher's features are
                average-pooled to the smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, shapes that are not those that the
                loss was built for, and a single value a channel (batch normalisation has no use for it).
        """
        pairs = pairs_as_built("ReviewKD", self.fusions, student_features, teacher_features)
        terms, residual = [], None
        for index in reversed(range(len(pairs))):
            student, teacher = pairs[index]
            fused, residual = self.fusions[index](index, student, residual)
            require_equal_channels(index, fused, teacher, "build the loss with the shapes of these features")
            terms.append(context_distance(*match_sizes(fused, teacher.to(fused.dtype)), self.levels))
        return torch.stack(terms).sum()


class AttentionLinks(nn.Module):
    """AFD: all stages of the teacher are linked with all of the student's, as strongly as a learned attention says.

    For the teacher's stages t and the student's s, with mean(A) the channels' averages over the positions:

        query_t    = norm(linear(mean(A_t)))
        key_s      = relu(norm(linear(mean(A_s)))),           key_st = norm(linear(key_s)), one slice for each t
        alpha_ts   = softmax over s of (key_st . query_t + p_t . p_s) / sqrt(query_dim)            one for each sample
        unit(P)    = P / ||P||_2 over the positions, of the power map P = sum_c A_c ** 2
        d_ts       = mean over positions of (unit(P_s at t's size) - unit(P_t)) ** 2                one for each sample
        L          = mean over the batch of sum_ts alpha_ts * d_ts

    norm is batch normalisation; p are learned positions.

    Args:
        student_shapes: (channels, height, width) of each stage.
        teacher_shapes: the same of the teacher; their numbers of stages may differ.
        query_dim: length of queries, keys and positions, 1 or more.

    Raises:
        InputError: for an option out of its range, and shapes that are none.

    Paper: Ji, Heo & Park, Show, Attend and Distill, arXiv 2102.02973. Departures: none known. Maps and attention are computed
    in float32 at least.
    """

    def __init__(self, student_shapes: Shapes, teacher_shapes: Shapes, query_dim: int = 128) -> None:
        super().__init__()
        require_at_least("query_dim", query_dim, 1, "the usual value is 128")
        students, teachers = channels_of("student", student_shapes), channels_of("teacher", teacher_shapes)
        self.queries = nn.ModuleList(_linear_with_norm(channels, query_dim) for channels in teachers)
        self.keys = nn.ModuleList(
            nn.Sequential(_linear_with_norm(channels, query_dim), nn.ReLU()) for channels in students
        )
        self.bilinear = _linear_with_norm(query_dim, query_dim * len(teachers))
        self.teacher_positions = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teachers), query_dim)))
        self.student_positions = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(students), query_dim)))
        self.power_map = PowerMap(2.0)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0, at most 2 / positions a stage of the teacher; its usual weight is 200.

        Args:
            student_features: [batch, channel, height, width] of all stages.
            teacher_features: the same of the teacher, of any numbers of stages and channels. The student's power map is
                average-pooled to the size of the teacher's; where it is the smaller its values are repeated. They get no gradient.

        Raises:
            InputError: naming the stage, for numbers of stages or channels that are not those that the loss was built for,
                unequal batches, maps of a single position, and a training batch of one (batch normalisation has no use for it).
        """
        students = self._checked("student", student_features, len(self.keys), student_features)
        teachers = self._checked("teacher", teacher_features, len(self.queries), student_features)
        attention = self._attention(students, teachers)
        distances = torch.stack([self._distances(students, teacher) for teacher in teachers], dim=1)
        return (attention.to(distances.dtype) * distances).sum(dim=(1, 2)).mean()

    def _attention(self, students: list[Tensor], teachers: list[Tensor]) -> Float[Tensor, "batch teachers students"]:
        """Return how strongly a stage of the teacher is linked with each of the student's; it sums to 1 over the latter."""
        query, key = _summaries(self.queries, teachers), _summaries(self.keys, students)
        linked = project("AFD", self.bilinear, key.flatten(0, 1)).view(*key.shape[:2], len(teachers), -1)
        with full_precision(query):
            positions = widen(self.teacher_positions) @ widen(self.student_positions).mT
            products = (linked * query[:, None]).sum(dim=3).mT
            return ((products + positions) / math.sqrt(query.shape[2])).softmax(dim=2)

    def _distances(self, students: list[Tensor], teacher: Tensor) -> Float[Tensor, "batch students"]:
        """Return the mean squared differences of one of the teacher's unit maps from each of the student's."""
        target = F.normalize(self.power_map(teacher).flatten(1))
        size = (teacher.shape[2], teacher.shape[3])
        maps = [F.adaptive_avg_pool2d(self.power_map(student), size) for student in students]
        return torch.stack([(F.normalize(p.flatten(1)) - target).square().mean(dim=1) for p in maps], dim=1)

    def _checked(
        self, owner: str, features: Sequence[Tensor], expected: int, students: Sequence[Tensor]
    ) -> list[Tensor]:
        require_stages("AFD", owner, features)
        if len(features) != expected:
            raise InputError(
                f"AFD was built for {expected} stages of the {owner}, got {len(features)}: build it with their shapes"
            )
        for index, stage in enumerate(features):
            require_values(index, owner, stage)
            require_features(index, owner, stage)
            require_positions(index, stage)
            if stage.shape[0] != students[0].shape[0]:
                raise refusal(
                    index,
                    f"the {owner}'s batch holds {stage.shape[0]} samples, the student's first stage "
                    f"{students[0].shape[0]}: give all stages the same images",
                )
        return [
            widen(stage) if owner == "student" else stage.detach().to(widen(students[0]).dtype) for stage in features
        ]


def _summaries(modules: nn.ModuleList, features: list[Tensor]) -> Float[Tensor, "batch stages dim"]:
    """Return each stage's channel averages through its module."""
    stages = enumerate(zip(modules, features, strict=True))
    return torch.stack([project(index, module, stage.mean(dim=(2, 3))) for index, (module, stage) in stages], dim=1)


class _Fusion(nn.Module):
    """ReviewKD's attention-based fusion: it adds a stage to the residual of the deeper ones, by learned gates."""

    def __init__(self, channels_in: int, mid_channels: int, channels_out: int, gated: bool) -> None:
        super().__init__()
        self.reduce = _convolution_with_norm(channels_in, mid_channels, 1)
        self.gate = nn.Conv2d(2 * mid_channels, 2, kernel_size=1) if gated else None
        self.expand = _convolution_with_norm(mid_channels, channels_out, 3)

    def forward(self, stage: int, features: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the features to compare with the teacher's, and the residual for the stage before."""
        own = project(stage, self.reduce, features)
        if self.gate is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=own.shape[2:], mode="nearest")
            gates = project(stage, self.gate, torch.cat([own, deeper], dim=1)).sigmoid()
            own = own * gates[:, :1] + deeper * gates[:, 1:]
        return project(stage, self.expand, own), own


def _convolution_with_norm(channels_in: int, channels_out: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def _linear_with_norm(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, dim_out), nn.BatchNorm1d(dim_out))
