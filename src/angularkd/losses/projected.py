"""Losses whose learned projectors turn the student's features into the teacher's: FitNets, VID, MGD, SRRL.

The projectors are modules of the loss: their parameters train with the student and are saved with it. They compute in
their own precision (and under the ambient autocast, like any layer of the student); distances are taken in float32 at
least."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError, StageError
from angularkd.features.attention import match_sizes, widen
from angularkd.losses.feature import Pairs, require_equal_channels, stage_pairs

Shapes = Sequence[tuple[int, int, int]]
"""(channels, height, width) of each paired stage."""

GIVE_SHAPES = "give student_shapes and teacher_shapes, from which a projector is built"


class FitNet(nn.Module):
    """FitNets: the student's features, through a regressor, equal the teacher's, summed over the stages.

        L_stage = mean over batch, channels and positions of (r(A_student) - A_teacher) ** 2            per element
                = mean over the batch of 1/2 * || r(A_student) - A_teacher ||_2 ** 2                    otherwise

    Args:
        student_shapes, teacher_shapes: (channels, height, width) of each stage. With them, r is a 1 x 1 convolution at
            a stage whose channels differ and the identity at the others; without them r is the identity everywhere.
        always_regress: a convolution also where the channels are equal, as in the paper.
        per_element: the mean that the field takes; False is the paper's equation 3.

    `forward` takes two equally long sequences of [batch, channel, height, width] and returns a scalar >= 0 in the
    square of the features' unit. Where the sizes differ the larger features are average-pooled to the smaller. The
    teacher's side carries no gradient.

    Raises InputError, naming the stage, for sequences of unequal length, unequal batches, and channels that nothing
    projects.

    Paper: Romero et al., arXiv 1412.6550. Departures: a term beside the others instead of a first training phase;
    several stages instead of one; the convolution is 1 x 1 and sizes are pooled.
    """

    def __init__(
        self,
        student_shapes: Shapes | None = None,
        teacher_shapes: Shapes | None = None,
        always_regress: bool = False,
        per_element: bool = True,
    ) -> None:
        super().__init__()
        if always_regress and student_shapes is None:
            raise InputError(f"always_regress needs to know the channels: {GIVE_SHAPES}")
        self.regressors = where_needed(student_shapes, teacher_shapes, _regressor, always_regress)
        self.per_element = per_element

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
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
        student_shapes, teacher_shapes: (channels, height, width) of each stage.
        hidden_channels: between the regressor's three 1 x 1 convolutions; None for the teacher's channels.
        initial_variance: every channel's variance before training.
        eps: the smallest variance.
        per_element: the mean that the field takes; False is the paper's sum.

    `forward` takes two equally long sequences of [batch, channel, height, width] and returns a scalar. Where the sizes
    differ the larger features are average-pooled to the smaller. The teacher's side carries no gradient.

    Raises InputError, naming the stage, for sequences of unequal length, unequal batches, and shapes that are not those
    that the loss was built for.

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
        if hidden_channels is not None and hidden_channels < 1:
            raise InputError(
                f"hidden_channels must be 1 or more, got {hidden_channels}: None takes the teacher's channels"
            )
        channels = stage_channels(student_shapes, teacher_shapes)
        start = math.log(math.expm1(initial_variance - eps))
        self.regressors = nn.ModuleList(_three_convolutions(s, hidden_channels or t, t) for s, t in channels)
        self.scales = nn.ParameterList(torch.full((t,), start) for _, t in channels)
        self.eps = eps
        self.per_element = per_element

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
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
        student_shapes, teacher_shapes: (channels, height, width) of each stage.
        masked_share: lambda; 0.15 for classification in the paper.
        mask_channels: whole channels of a sample are masked, as in the published classifier code, instead of positions.
        per_element: the mean over the elements instead of the paper's sum, whose usual weight is 7e-5.

    `forward` takes two equally long sequences of [batch, channel, height, width] and returns a scalar >= 0 in the
    square of the features' unit. Where the sizes differ the larger features are average-pooled to the smaller. The
    teacher's side carries no gradient.

    Raises InputError, naming the stage, for sequences of unequal length, unequal batches, and shapes that are not those
    that the loss was built for.

    Paper: Yang et al., arXiv 2205.01529. Departures: unequal sizes are matched; several stages may be given (the paper
    uses the last alone for classification); no mask in eval mode.
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
        if not 0 <= masked_share < 1:
            raise InputError(f"masked_share must lie in 0..1 (1 excluded), got {masked_share}: the usual value is 0.15")
        self.aligners = where_needed(student_shapes, teacher_shapes, _regressor)
        self.generators = nn.ModuleList(_generator(t) for _, t in stage_channels(student_shapes, teacher_shapes))
        self.masked_share = masked_share
        self.mask_channels = mask_channels
        self.per_element = per_element

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
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
        kept = torch.rand(drawn.shape, device=features.device) >= self.masked_share
        return torch.where(kept, features, 0.0)


class SoftmaxRegression(nn.Module):
    """SRRL: the student's embedding, through a connector, equals the teacher's and reads the same to its classifier.

    With s = relu(batch_norm(V e_student)), t = e_teacher, and the frozen weight W of the teacher's head, whose bias
    cancels between the two logits:

        L = mse(s, t) + logit_weight * mse(W s, W t),          the means over batch and dimensions, batch and classes

    Args:
        student_dim, teacher_dim: lengths of the embeddings.
        head_weight: W of the teacher's classifier, [classes, teacher_dim]; copied, never trained, never saved.
        logit_weight: beta of the second term.
        relu: False leaves the relu out: for a teacher whose embedding has both signs, which the relu could not reach.

    `forward` takes the embeddings before the classifiers, [batch, dim] each, and returns a scalar >= 0. Distances are
    taken in float32 at least. The teacher's side carries no gradient.

    Raises InputError for a head of another size than teacher_dim, embeddings of another length than the loss was
    built for, unequal batches, and a training batch of one (batch normalisation has no use for it).

    Paper: Yang, Martinez, Bulat & Tzimiropoulos, arXiv 2103.01988, with its distance of logits.
    Departure: the connector acts on the pooled embedding, where the published code convolves the feature map before
    pooling.
    """

    head_weight: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        head_weight: Float[Tensor, "classes dim"] | None,
        logit_weight: float = 1.0,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if head_weight is None or head_weight.shape[1] != teacher_dim:
            raise InputError(
                f"head_weight must be [classes, {teacher_dim}] for a teacher_dim of {teacher_dim}, got "
                f"{None if head_weight is None else list(head_weight.shape)}: give the weight of the teacher's last linear layer"
            )
        linear = nn.Linear(student_dim, teacher_dim, bias=False)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out")
        self.connector = nn.Sequential(linear, nn.BatchNorm1d(teacher_dim), nn.ReLU() if relu else nn.Identity())
        self.logit_weight = logit_weight
        self.register_buffer("head_weight", head_weight.detach().clone(), persistent=False)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        connected = project(None, self.connector, widen(student_embedding))
        teacher = teacher_embedding.detach().to(connected.dtype)
        if teacher.shape != connected.shape:
            raise InputError(
                f"SRRL expected the teacher's embedding as {list(connected.shape)}, got {list(teacher.shape)}: "
                "build the loss with this teacher's dimension, and show both the same images"
            )
        with torch.autocast(connected.device.type, enabled=False):
            logit_difference = F.linear(connected - teacher, self.head_weight.to(connected.dtype))
        return F.mse_loss(connected, teacher) + self.logit_weight * logit_difference.square().mean()


def stage_channels(student_shapes: Shapes, teacher_shapes: Shapes) -> list[tuple[int, int]]:
    """(student's, teacher's) channels of each stage. Raises InputError for shapes that are no pairs of (C, H, W)."""
    students, teachers = channels_of("student", student_shapes), channels_of("teacher", teacher_shapes)
    if len(students) != len(teachers):
        raise InputError(
            f"stages are paired one to one, got {len(students)} student_shapes and {len(teachers)} teacher_shapes: "
            "give two equally long sequences"
        )
    return list(zip(students, teachers, strict=True))


def channels_of(owner: str, shapes: Shapes) -> list[int]:
    """The channels of each stage. Raises InputError unless there is one, and each is (channels, height, width)."""
    if not shapes:
        raise InputError(f"{owner}_shapes is empty: give (channels, height, width) of each stage")
    for index, shape in enumerate(shapes):
        if len(shape) != 3 or min(shape) < 1:
            raise StageError(
                index, f"expected the {owner}'s (channels, height, width), got {tuple(shape)}: drop the batch"
            )
    return [shape[0] for shape in shapes]


def where_needed(
    student_shapes: Shapes | None,
    teacher_shapes: Shapes | None,
    build: Callable[[int, int], nn.Module],
    always: bool = False,
) -> nn.ModuleList | None:
    """A projector a stage, the identity where the channels are equal already (unless `always`); None without shapes."""
    if student_shapes is None and teacher_shapes is None:
        return None
    if student_shapes is None or teacher_shapes is None:
        raise InputError(f"one of student_shapes and teacher_shapes is missing: {GIVE_SHAPES}")
    channels = stage_channels(student_shapes, teacher_shapes)
    return nn.ModuleList(build(s, t) if always or s != t else nn.Identity() for s, t in channels)


def matched_pairs(
    loss: str, modules: nn.ModuleList | None, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Pairs:
    """The stages as (student, teacher) of equal sizes. Raises InputError unless there are as many as modules."""
    pairs = stage_pairs(loss, student_features, teacher_features)
    if modules is not None and len(modules) != len(pairs):
        raise InputError(f"{loss} was built for {len(modules)} stages, got {len(pairs)}: build it with their shapes")
    return [match_sizes(student, teacher) for student, teacher in pairs]


def projected_pairs(
    loss: str, projectors: nn.ModuleList | None, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Pairs:
    """The stages as (projected student, teacher) of equal shapes and type. Raises InputError where they cannot be."""
    pairs = []
    for index, (student, teacher) in enumerate(matched_pairs(loss, projectors, student_features, teacher_features)):
        if projectors is not None:
            student = project(index, projectors[index], student)
        require_equal_channels(index, student, teacher, GIVE_SHAPES)
        pairs.append((student, teacher.to(student.dtype)))
    return pairs


def project(stage: int | None, module: nn.Module, features: Tensor) -> Tensor:
    """Features [batch, channel, ...] through a module whose first parameter is a layer's weight; float32 at least.

    Raises InputError, naming the stage, for other channels than that layer takes, and where batch normalisation would
    have to learn from a single value a channel.
    """
    weight = next(module.parameters(), None)
    if weight is None:  # an identity
        return features
    where = "" if stage is None else f"stage {stage}: "
    if features.shape[1] != weight.shape[1]:
        raise InputError(
            f"{where}the projector was built for {weight.shape[1]} channels, got {features.shape[1]}: "
            "build the loss with the shapes of these features"
        )
    if features.numel() == features.shape[1] and _normalises_batch(module):
        raise InputError(
            f"{where}batch normalisation cannot train on a single value a channel: "
            "use a batch of two or more, or a larger map"
        )
    projected: Tensor = module(features.to(weight.dtype))
    return widen(projected)


def _normalises_batch(module: nn.Module) -> bool:
    return any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.training for part in module.modules())


def _regressor(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Conv2d(channels_in, channels_out, kernel_size=1)


def _three_convolutions(channels_in: int, hidden: int, channels_out: int) -> nn.Sequential:
    first = nn.Conv2d(channels_in, hidden, kernel_size=1, bias=False)
    second = nn.Conv2d(hidden, hidden, kernel_size=1, bias=False)
    third = nn.Conv2d(hidden, channels_out, kernel_size=1, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def _generator(channels: int) -> nn.Sequential:
    first, second = (nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second)
