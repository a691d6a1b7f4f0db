"""Losses whose learned projectors turn the student's features into the teacher's, to compare them: FitNets, VID and MGD."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import require_at_least, require_share
from angularkd.losses.projectors import (
    GIVE_SHAPES,
    Shapes,
    norm_regressor,
    project,
    projected_pairs,
    regressor,
    stage_channels,
    where_needed,
)


class FitNet(nn.Module):
    """FitNets: the student's features, through a regressor, equal the teacher's, summed over the stages.

        L_stage = mean over batch, channels and positions of (r(A_student) - A_teacher) ** 2            per element
                = mean over the batch of 1/2 * || r(A_student) - A_teacher ||_2 ** 2                    otherwise

    r is the field's regressor, a convolution with batch normalisation and a ReLU, also where the channels are equal: it can reach
    features behind a ReLU alone. The paper's is a convolution without normalisation, which `bare` with `always_regress` gives.

    Args:
        student_shapes: (channels, height, width) of each stage; needed unless `bare`, whose r is the identity without them.
        teacher_shapes: the same of the teacher.
        bare: r is a 1 x 1 convolution alone at a stage whose channels differ, and the identity at the others.
        always_regress: with `bare`, a convolution also where the channels are equal.
        per_element: the mean that the field takes; False is the paper's equation 3.

    Raises:
        InputError: for shapes that do not fit each other, and none where r needs them.

    The paper and the field take a single stage in the middle, as the table of losses does by default.

    Paper: Romero et al., arXiv 1412.6550. Departures: a term beside the others instead of a first training phase; sizes are pooled
    and the convolution is 1 x 1, where the field's strides or transposes it at sizes that differ.
    """

    def __init__(
        self,
        student_shapes: Shapes | None = None,
        teacher_shapes: Shapes | None = None,
        bare: bool = False,
        always_regress: bool = False,
        per_element: bool = True,
    ) -> None:
        super().__init__()
        if student_shapes is None and (always_regress or not bare):
            raise InputError(f"FitNet's regressors need to know the channels: {GIVE_SHAPES}, or use bare=True for none")
        build = regressor if bare else norm_regressor
        self.regressors = where_needed(student_shapes, teacher_shapes, build, always_regress or not bare)
        self.per_element = per_element

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in the square of the features' unit; its usual weight is 100.

        Args:
            student_features: [batch, channel, height, width], one a stage.
            teacher_features: the same of the teacher; where the sizes differ the larger features are average-pooled to the
                smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, channels that nothing projects, and a
                single value a channel (batch normalisation has no use for it).
        """
        pairs = projected_pairs("FitNet", self.regressors, student_features, teacher_features)
        return torch.stack([self._stage(s, t) for s, t in pairs]).sum()

    def _stage(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        if self.per_element:
            return F.mse_loss(student, teacher)
        return F.mse_loss(student, teacher, reduction="sum") / (2 * student.shape[0])


class VariationalInformation(nn.Module):
    """VID: the student's features predict the teacher's, with a learned variance a channel, summed over the stages.

    With mu = regressor(A_student), variance_c = softplus(a_c) + eps, over batch, channels and positions:

        L_stage = mean of 1/2 * [ (A_teacher - mu) ** 2 / variance_c + log variance_c ]                 per element
                = the same, summed over channels and positions, mean over the batch                     otherwise

    It is the negative log likelihood, in nats, without its constant 1/2 log(2 pi): it may be negative, and a perfect
    regressor leaves mean_c 1/2 log variance_c, at least 1/2 log eps.

    Args:
        student_shapes: (channels, height, width) of each stage.
        teacher_shapes: the same of the teacher.
        hidden_channels: between the regressor's three 1 x 1 convolutions; None for the teacher's channels.
        initial_variance: every channel's variance before training, above eps.
        eps: the smallest variance, above 0.
        per_element: the mean that the field takes; False is the paper's sum.

    Raises:
        InputError: for an option out of its range, and shapes that do not fit each other.

    Paper: Ahn, Hu, Damianou, Lawrence & Dai, arXiv 1904.05835. Departure: convolutional features alone, not the paper's
    additional Gaussian on the logits.
    """

    def __init__(
        self,
        student_shapes: Shapes,
        teacher_shapes: Shapes,
        hidden_channels: int | None = None,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
        per_element: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < eps < initial_variance:
            raise InputError(f"initial_variance must exceed eps > 0, got {initial_variance} and {eps}: use 5 and 1e-5")
        if hidden_channels is not None:
            require_at_least("hidden_channels", hidden_channels, 1, "None takes the teacher's channels")
        channels = stage_channels(student_shapes, teacher_shapes)
        start = math.log(math.expm1(initial_variance - eps))
        self.regressors = nn.ModuleList(_three_convolutions(s, hidden_channels or t, t) for s, t in channels)
        self.scales = nn.ParameterList(torch.full((t,), start) for _, t in channels)
        self.eps = eps
        self.per_element = per_element

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar in nats.

        Args:
            student_features: [batch, channel, height, width], one a stage.
            teacher_features: the same of the teacher; where the sizes differ the larger features are average-pooled to the
                smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, and shapes that are not those that
                the loss was built for.
        """
        pairs = projected_pairs("VID", self.regressors, student_features, teacher_features)
        return torch.stack([self._stage(s, t, scale) for (s, t), scale in zip(pairs, self.scales, strict=True)]).sum()

    def _stage(self, mean: Tensor, teacher: Tensor, scale: Float[Tensor, " channel"]) -> Float[Tensor, ""]:
        variance = (F.softplus(widen(scale)) + self.eps)[:, None, None]
        negative_log_likelihood = 0.5 * ((teacher - mean).square() / variance + variance.log())
        return negative_log_likelihood.mean() if self.per_element else negative_log_likelihood.sum() / mean.shape[0]


class MaskedGeneration(nn.Module):
    """MGD: a small generator makes the teacher's features from the student's, partly masked, summed over the stages.

        masked  = align(A_student) * M,      M = 0 with probability masked_share, else 1
        L_stage = mean over the batch of || G(masked) - A_teacher ||_2 ** 2                             a sum
                = mean over batch, channels and positions of the same squares                           per element

    align is a 1 x 1 convolution where the channels differ, else the identity; G is a 3 x 3 convolution, a ReLU and
    another 3 x 3 convolution. M is drawn from PyTorch's global generator, in training mode alone: in eval mode nothing
    is masked.

    Args:
        student_shapes: (channels, height, width) of each stage.
        teacher_shapes: the same of the teacher.
        masked_share: lambda in 0..1 (1 excluded); 0.15 for classification in the paper.
        mask_channels: whole channels of a sample are masked, as in the published classifier code, instead of positions.
        per_element: the mean over the elements instead of the paper's sum, whose usual weight is 7e-5.

    Raises:
        InputError: for a masked_share out of its range, and shapes that do not fit each other.

    The paper takes the last stage alone for classification, as the table of losses does by default.

    Paper: Yang et al., arXiv 2205.01529. Departures: unequal sizes are matched; no mask in eval mode.
    """

    def __init__(
        self,
        student_shapes: Shapes,
        teacher_shapes: Shapes,
        masked_share: float = 0.15,
        mask_channels: bool = False,
        per_element: bool = False,
    ) -> None:
        super().__init__()
        self.masked_share = require_share("masked_share", masked_share, usual=0.15)
        self.aligners = where_needed(student_shapes, teacher_shapes, regressor)
        self.generators = nn.ModuleList(_generator(t) for _, t in stage_channels(student_shapes, teacher_shapes))
        self.mask_channels = mask_channels
        self.per_element = per_element

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in the square of the features' unit.

        Args:
            student_features: [batch, channel, height, width], one a stage.
            teacher_features: the same of the teacher; where the sizes differ the larger features are average-pooled to the
                smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, and shapes that are not those that
                the loss was built for.
        """
        pairs = projected_pairs("MGD", self.aligners, student_features, teacher_features)
        return torch.stack([self._stage(i, s, t) for i, (s, t) in enumerate(pairs)]).sum()

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        generated = project(index, self.generators[index], self._masked(student) if self.training else student)
        teacher = teacher.to(generated.dtype)
        if self.per_element:
            return F.mse_loss(generated, teacher)
        return F.mse_loss(generated, teacher, reduction="sum") / generated.shape[0]

    def _masked(self, features: Tensor) -> Tensor:
        drawn = features[:, :, :1, :1] if self.mask_channels else features[:, :1]
        unmasked = torch.rand(drawn.shape, device=features.device) >= self.masked_share
        return torch.where(unmasked, features, 0.0)


def _three_convolutions(channels_in: int, hidden: int, channels_out: int) -> nn.Sequential:
    first = nn.Conv2d(channels_in, hidden, kernel_size=1, bias=False)
    second = nn.Conv2d(hidden, hidden, kernel_size=1, bias=False)
    third = nn.Conv2d(hidden, channels_out, kernel_size=1, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def _generator(channels: int) -> nn.Sequential:
    first, second = (nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second)
