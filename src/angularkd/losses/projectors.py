"""Learned projectors, which turn a stage of the student into the teacher's: how losses build them and apply them.

Projectors are modules of their loss: their parameters train with the student and are saved with it. They compute in their own
precision (and under the ambient autocast, like any layer of the student); distances are taken in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features import match_sizes, widen
from angularkd.losses.checks import Pairs, refusal, require_equal_channels, stage_pairs

Shapes = Sequence[tuple[int, int, int]]
"""(channels, height, width) of each paired stage."""

GIVE_SHAPES = "give student_shapes and teacher_shapes, from which a projector is built"


def stage_channels(student_shapes: Shapes, teacher_shapes: Shapes) -> list[tuple[int, int]]:
    """Return the (student's, teacher's) channels of each stage.

    Raises InputError for shapes that are no (channels, height, width), and for unequal numbers of stages.
    """
    students, teachers = channels_of("student", student_shapes), channels_of("teacher", teacher_shapes)
    if len(students) != len(teachers):
        raise InputError(
            f"stages are paired one to one, got {len(students)} student_shapes and {len(teachers)} teacher_shapes: "
            "give two equally long sequences"
        )
    return list(zip(students, teachers, strict=True))


def channels_of(owner: str, shapes: Shapes) -> list[int]:
    """Return the channels of each stage. Raises InputError unless there is one, and each is (channels, height, width)."""
    if not shapes:
        raise InputError(f"{owner}_shapes is empty: give (channels, height, width) of each stage")
    for index, shape in enumerate(shapes):
        if len(shape) != 3 or min(shape) < 1:
            raise refusal(
                index, f"expected the {owner}'s (channels, height, width), got {tuple(shape)}: drop the batch"
            )
    return [shape[0] for shape in shapes]


def regressor(channels_in: int, channels_out: int) -> nn.Module:
    """Return a 1 x 1 convolution."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=1)


def conv_with_norm(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a 1 x 1 convolution without bias, of He's normal initialisation by its outputs, and batch normalisation."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def norm_regressor(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return the field's regressor: a 1 x 1 convolution, batch normalisation and a ReLU."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out), nn.ReLU())


def where_needed(
    student_shapes: Shapes | None,
    teacher_shapes: Shapes | None,
    build: Callable[[int, int], nn.Module],
    always: bool = False,
) -> nn.ModuleList | None:
    """Return a projector a stage, the identity where the channels are equal already; None without shapes.

    Args:
        student_shapes: (channels, height, width) of each stage.
        teacher_shapes: the same of the teacher.
        build: makes a projector for a number of channels in, and out.
        always: build one also where the channels are equal.

    Raises:
        InputError: when one of the shapes is missing, or they do not fit each other.
    """
    if student_shapes is None and teacher_shapes is None:
        return None
    if student_shapes is None or teacher_shapes is None:
        raise InputError(f"one of student_shapes and teacher_shapes is missing: {GIVE_SHAPES}")
    channels = stage_channels(student_shapes, teacher_shapes)
    return nn.ModuleList(build(s, t) if always or s != t else nn.Identity() for s, t in channels)


def pairs_as_built(
    loss: str, modules: nn.ModuleList | None, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Pairs:
    """Return `stage_pairs`. Raises InputError, naming the loss, unless there are as many stages as modules."""
    pairs = stage_pairs(loss, student_features, teacher_features)
    if modules is not None and len(modules) != len(pairs):
        raise InputError(f"{loss} was built for {len(modules)} stages, got {len(pairs)}: build it with their shapes")
    return pairs


def matched_pairs(
    loss: str, modules: nn.ModuleList | None, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Pairs:
    """Return `pairs_as_built`, the larger features of a stage average-pooled to the size of the smaller."""
    pairs = pairs_as_built(loss, modules, student_features, teacher_features)
    return [match_sizes(student, teacher) for student, teacher in pairs]


def projected_pairs(
    loss: str, projectors: nn.ModuleList | None, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Pairs:
    """Return the stages as (projected student, teacher) of equal shapes and type.

    Args:
        loss: its name, for the error.
        projectors: one a stage, or None to compare the student's features as they are.
        student_features: [batch, channel, height, width], one a stage.
        teacher_features: the same of the teacher.

    Raises:
        InputError: naming the stage, for features that are not those that the projectors were built for.
    """
    pairs = []
    for index, (student, teacher) in enumerate(matched_pairs(loss, projectors, student_features, teacher_features)):
        if projectors is not None:
            student = project(index, projectors[index], student)
        require_equal_channels(index, student, teacher, GIVE_SHAPES)
        pairs.append((student, teacher.to(student.dtype)))
    return pairs


def project(where: int | str, module: nn.Module, features: Tensor) -> Tensor:
    """Return features through a module whose first parameter is a layer's weight, in float32 at least.

    Args:
        where: the stage's position, or the loss's name, for the error.
        module: a projector; one without parameters, an identity, leaves the features alone.
        features: [batch, channel, ...].

    Raises:
        InputError: for other channels than that layer takes, and where batch normalisation would have to learn from a single
            value a channel.
    """
    weight = next(module.parameters(), None)
    if weight is None:  # an identity
        return features
    if features.shape[1] != weight.shape[1]:
        raise refusal(
            where,
            f"the projector was built for {weight.shape[1]} channels, got {features.shape[1]}: "
            "build the loss with the shapes of these features",
        )
    if features.numel() == features.shape[1] and _normalises_batch(module):
        raise refusal(
            where,
            "batch normalisation cannot train on a single value a channel: use a batch of two or more, or a larger map",
        )
    projected: Tensor = module(features.to(weight.dtype))
    return widen(projected)


def _normalises_batch(module: nn.Module) -> bool:
    return any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.training for part in module.modules())
