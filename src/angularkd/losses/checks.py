"""What the losses check of their options and inputs, and how they bring both sides to one precision.

Every check stands here once, so that all losses refuse the same thing in the same words. A check raises InputError, which names
the stage or the loss, and says what to do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from angularkd.errors import InputError, StageError, short_repr
from angularkd.features import match_sizes, to_map, widen
from angularkd.types import Reduction

Pairs = list[tuple[Tensor, Tensor]]
"""One (student, teacher) a stage."""

Maps = Float[Tensor, "maps height width"]

TOKEN_WIDTH = 96
"""The least width of a transformer's tokens: below it, a tensor of three dimensions is taken for maps without a question."""


def refusal(where: int | str, reason: str) -> InputError:
    """Return the error about a stage (its position among the paired ones) or about a whole loss (its name)."""
    return StageError(where, reason) if isinstance(where, int) else InputError(f"{where}: {reason}")


# Options

LEAST_NUMBER, LARGEST_NUMBER = 1e-12, 1e6
"""Of an option beside 0: what lies beyond is lost in the rounding of float32, or overflows."""
MOST = 65_536
"""Of what is counted: dimensions, iterations, samples."""


def require_kind(loss: str, option: str, value: Any, annotation: str) -> None:
    """Check that an option is of the kind that it is annotated with, and its numbers of a size that can be computed with.

    Raises:
        InputError: naming the option and the loss.
    """
    words = re.findall(r"\w+", re.sub(r"\[.*?\]", "", annotation.replace("Sequence[str]", "Names")))
    kinds = [KINDS[word] for word in words if word in KINDS]
    if kinds and not any(fits(value) for _, fits in kinds):
        expected = " or ".join(name for name, _ in kinds)
        raise InputError(f"{option} of loss '{loss}' must be {expected}, got {short_repr(value)}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value == 0 or LEAST_NUMBER <= abs(value) <= LARGEST_NUMBER)


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": (f"a whole number from 1 to {MOST:,}", _is_count),
    "float": (f"a number, which is 0 or between {LEAST_NUMBER:g} and {LARGEST_NUMBER:,.0f} in size", _is_number),
    "str": ("a name", lambda value: isinstance(value, str)),
    "Literal": ("a name", lambda value: isinstance(value, str)),
    "Sequence": ("a list of numbers", lambda value: isinstance(value, list | tuple) and all(map(_is_number, value))),
    "Names": ("a list of names", lambda value: isinstance(value, list | tuple) and {*map(type, value)} <= {str}),
    "None": ("null", lambda value: value is None),
}
"""What an annotation takes, by the words in it, and how that is called."""


def require_positive(option: str, value: float, usual: float) -> float:
    """Return the value. Raises InputError, naming the usual one, unless it is above 0."""
    if not value > 0:
        raise InputError(f"{option} must be positive, got {value}: the usual value is {usual:g}")
    return value


def require_weight(option: str, value: float) -> float:
    """Return the value. Raises InputError unless it is 0 or more."""
    if not value >= 0:
        raise InputError(f"{option} is a weight and must not be negative, got {value}: 0 leaves that part out")
    return value


def require_share(option: str, value: float, usual: float) -> float:
    """Return the value. Raises InputError, naming the usual one, unless it lies in 0..1, 1 excluded."""
    if not 0 <= value < 1:
        raise InputError(f"{option} must lie in 0..1 (1 excluded), got {value}: the usual value is {usual:g}")
    return value


def require_at_least(option: str, value: float, least: int, remedy: str) -> None:
    """Raise InputError, ending with the remedy, unless the value is `least` or more."""
    if not value >= least:
        raise InputError(f"{option} must be at least {least}, got {value}: {remedy}")


def checked_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of pooling grids as a tuple. Raises InputError for one below 1."""
    if any(level < 1 for level in levels):
        raise InputError(
            f"levels are the sides of pooling grids and must be 1 or more, got {list(levels)}: use [4, 2, 1]"
        )
    return tuple(levels)


# Features of paired stages


def require_paired(loss: str, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> None:
    """Check that both are sequences over the same stages, of tensors of floats that hold samples.

    Raises:
        InputError: naming the loss, for what is no such sequence, and naming the stage, for what is no such tensor.
    """
    sides = {"student": student_features, "teacher": teacher_features}
    for owner, features in sides.items():
        require_stages(loss, owner, features)
    if len(student_features) != len(teacher_features) or not student_features:
        raise InputError(
            f"{loss} pairs stages one to one, got {len(student_features)} of the student and "
            f"{len(teacher_features)} of the teacher: pass two equally long, non-empty sequences"
        )
    for owner, features in sides.items():
        for index, stage in enumerate(features):
            require_values(index, owner, stage)


def require_stages(loss: str, owner: str, features: Any) -> None:
    """Raise InputError, naming the loss, unless the features are a sequence over the stages."""
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        raise InputError(
            f"{loss} takes a sequence of the {owner}'s features, one tensor a stage, got {_describe(features)}: "
            "pass [features] for a single stage"
        )


def require_values(stage: int, owner: str, features: Any) -> None:
    """Raise InputError, naming the stage, unless the features are a tensor of floats that holds a sample."""
    if not isinstance(features, Tensor):
        raise refusal(
            stage, f"expected the {owner}'s features as a tensor, got {_describe(features)}: leave the stage out"
        )
    if not features.is_floating_point():
        raise refusal(
            stage, f"the {owner}'s features are {_describe(features)}: give floats, for example features.float()"
        )
    if features.shape[:1] == (0,):
        raise refusal(
            stage, f"the {owner}'s features hold no sample, got {_describe(features)}: leave empty batches out"
        )


def stage_pairs(loss: str, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Pairs:
    """Return the features as one (student, teacher) a stage, both of the student's type, float32 at least.

    Args:
        loss: its name, for the error.
        student_features: [batch, channel, height, width], one a stage.
        teacher_features: the teacher's, of any channels and sizes; they come back detached.

    Raises:
        InputError: when the sequences are not equally long or empty, a tensor has other dimensions, or the batches differ.
    """
    require_paired(loss, student_features, teacher_features)
    pairs: Pairs = []
    for index, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
        require_features(index, "student", student)
        require_features(index, "teacher", teacher)
        require_equal_batches(index, student, teacher)
        pairs.append(one_precision(student, teacher))
    return pairs


def map_pair(stage: int, student: Tensor, teacher: Tensor, reduction: Reduction) -> tuple[Maps, Maps]:
    """Return the attention maps of one stage, float32 at least, of the smaller height and the smaller width of the two.

    Args:
        stage: its position, for the error.
        student: features [batch, channel, height, width], or their map [batch, height, width] where it was made already.
        teacher: the same of the teacher; its map comes back detached.
        reduction: the attention mechanism that makes the maps.

    Raises:
        InputError: naming the stage, when a tensor has other dimensions, the batches differ, or one position is left: of unit
            length such a map is a constant, without a gradient.
    """
    require_features(stage, "student", student, maps=True)
    require_features(stage, "teacher", teacher, maps=True)
    student, teacher = to_map(student, reduction), to_map(teacher.detach(), reduction)
    require_equal_batches(stage, student, teacher)
    student, teacher = match_sizes(student, teacher)
    require_positions(stage, student)
    return student, teacher


def require_features(stage: int, owner: str, features: Tensor, maps: bool = False) -> None:
    """Check that a tensor is [batch, channel, height, width], or a map [batch, height, width] of it where `maps` are taken too.

    A tensor of three dimensions whose last two are far apart, or those of tokens behind a class token, is no map.

    Raises:
        InputError: naming the stage, where it is not.
    """
    tokens = features.ndim == 3 and maps and _look_like_tokens(features.shape[1], features.shape[2])
    if features.ndim != 4 and not (features.ndim == 3 and maps and not tokens):
        expected = "[batch, channel, height, width]" + (" or [batch, height, width]" if maps else "")
        remedy = {
            2: "take the stage before it is pooled or flattened, or compare embeddings (pkt, rkd, cc)",
            3: "lay tokens [batch, tokens, channel] out without the class token, as tokens.mT.unflatten(2, (height, width))",
            5: "fold the frames of a video into its batch",
        }.get(features.ndim, "take the stage before it is pooled, flattened or reduced")
        raise refusal(stage, f"expected the {owner}'s features as {expected}, got {list(features.shape)}: {remedy}")
    if 0 in features.shape[1:]:
        raise refusal(stage, f"the {owner}'s features {list(features.shape)} hold no number: use larger images")


def require_equal_channels(stage: int, student: Tensor, teacher: Tensor, remedy: str) -> None:
    """Raise InputError, ending with the remedy, unless both features have the same number of channels."""
    if student.shape[1] != teacher.shape[1]:
        raise refusal(
            stage,
            f"the student has {student.shape[1]} channels, the teacher {teacher.shape[1]}, "
            f"and they must be equal: {remedy}",
        )


def require_positions(stage: int, features: Tensor) -> None:
    """Raise InputError for features, or a map, of a single position."""
    if features.shape[-2] * features.shape[-1] < 2:
        raise refusal(stage, "a 1x1 map has no direction to learn: leave this stage out, or use larger images")


# Batches


def require_equal_batches(where: int | str, student: Tensor, teacher: Tensor) -> None:
    """Raise InputError, naming the stage or the loss, unless both sides hold equally many samples."""
    if student.shape[0] != teacher.shape[0]:
        raise refusal(
            where,
            f"the student's batch holds {student.shape[0]} samples, the teacher's {teacher.shape[0]}: "
            "give both the same images",
        )


def require_samples(loss: str, batch: Tensor, at_least: int = 2) -> None:
    """Raise InputError, naming the loss, for a batch too small to compare its samples with each other."""
    if batch.shape[0] < at_least:
        raise InputError(
            f"{loss} compares the samples of a batch with each other and needs at least {at_least}, "
            f"got {batch.shape[0]}: use a larger batch, or drop the last one"
        )


def embedding_pair(
    loss: str, student_embedding: Tensor, teacher_embedding: Tensor, at_least: int = 2
) -> tuple[Tensor, Tensor]:
    """Return two embeddings [batch, dim], both of the student's type, float32 at least, the teacher's detached.

    Raises InputError, naming the loss, for what is no embedding, unequal batches, and one of fewer samples than `at_least`.
    """
    for owner, embedding in (("student", student_embedding), ("teacher", teacher_embedding)):
        require_rows(f"{loss} takes the {owner}'s embedding as floats [batch, dim]", embedding, "pool it first")
    require_equal_batches(loss, student_embedding, teacher_embedding)
    require_samples(loss, student_embedding, at_least)
    return one_precision(student_embedding, teacher_embedding)


def require_rows(expected: str, values: Any, remedy: str) -> None:
    """Check that values are floats of two dimensions, with a column at least.

    Args:
        expected: a phrase that says who takes what.
        values: anything.
        remedy: what to do.

    Raises:
        InputError: where they are not.
    """
    if not isinstance(values, Tensor) or values.ndim != 2 or not values.is_floating_point() or not values.shape[1]:
        raise InputError(f"{expected}, got {_describe(values)}: {remedy}")


def require_logits(owner: str, logits: Any) -> None:
    """Raise InputError unless logits are floats [batch, classes] of a sample at least."""
    expected = f"the {owner}'s logits must be floats [batch, classes]"
    require_rows(expected, logits, "give one number a class for each sample, before the softmax")
    if not logits.shape[0]:
        raise InputError(f"{expected}, got {_describe(logits)}: leave empty batches out")


def require_class_indices(labels: Any, logits: Tensor, ignored: int | None = None) -> None:
    """Check that labels are classes of the logits' samples. Their range is checked on the CPU alone: elsewhere it would wait.

    Args:
        labels: whole numbers [batch].
        logits: [batch, classes].
        ignored: a number that stands for no class, where one may.

    Raises:
        InputError: for another number of labels than samples, and for classes that the logits do not have.
    """
    batch, classes = logits.shape
    if len(labels) != batch:
        raise InputError(f"there are {len(labels)} labels for {batch} samples: give one for each")
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = labels[(labels < 0) | (labels >= classes)]
    wrong = wrong if ignored is None else wrong[wrong != ignored]
    if len(wrong):
        raise InputError(f"labels are classes from 0 to {classes - 1}, got {int(wrong[0])}: number the classes from 0")


def full_precision(values: Tensor) -> torch.autocast:
    """Return a context without autocast on the values' device, so that no product is rounded to half precision."""
    return torch.autocast(values.device.type, enabled=False)


def one_precision(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides in the student's type, float32 at least, the teacher's detached."""
    student = widen(student)
    return student, teacher.detach().to(student.dtype)


def unit_rows(values: Float[Tensor, "batch dim"], least: float = 1e-12) -> Float[Tensor, "batch dim"]:
    """Return rows divided by their Euclidean norms. A row no longer than `least` is left alone, so that its gradient is small."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return values / torch.where(norms > least, norms, 1.0)


def _look_like_tokens(tokens: int, width: int) -> bool:
    """Return whether the sides of a map are rather a number of tokens and their width: three times apart, or n * n + 1 and another."""
    shorter, longer = sorted((tokens, width))
    behind_class_token = tokens > 4 and tokens != width and math.isqrt(tokens - 1) ** 2 == tokens - 1
    return longer >= TOKEN_WIDTH and (longer > 3 * shorter or (behind_class_token and width % 32 == 0))


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
