"""Which of the paired stages a loss on features acts on, and how much each of them counts.

All such losses take the options `stages` and `stage_weights`; the objective applies them, so that a loss only ever gets the stages
that were chosen, and is built for these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from angularkd.errors import InputError, StageError, nearest, short_repr
from angularkd.types import LossContext

Stages = str | tuple[int, ...]
"""A name in NAMED, or numbers of stages."""

NAMED = ("all", "last", "middle")
"""Choices of stages by name; the middle one of three is the second, of four too, as is the hint layer of FitNets in the field."""

LEAST_WEIGHT, LARGEST_WEIGHT = 1e-30, 1e30
"""Of a weight beside 0: what float32 holds, with room for a product."""

STAGES, STAGE_WEIGHTS = "stages", "stage_weights"
"""The names of both options."""


def read_stages(loss: str, value: Any) -> Stages:
    """Return the choice of stages that an option says.

    Args:
        loss: the loss's name, for the error.
        value: a name in NAMED; or numbers, as one, a sequence or text 1,3: from 1 for the shallowest, or -1 for the deepest and so on.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, str) and value in NAMED:
        return value
    try:
        numbers = tuple(_whole(part) for part in (value.split(",") if isinstance(value, str) else _sequence(value)))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or 0 in numbers:
        hint = nearest(value, NAMED) if isinstance(value, str) else ""
        raise InputError(
            f"stages of loss '{loss}' must be {', '.join(NAMED)} or numbers from 1, shallow to deep (-1 is the last), "
            f"got {short_repr(value)}.{hint} Write stages=last, stages=2 or stages=[1,3]"
        )
    return numbers


def read_stage_weights(loss: str, value: Any) -> tuple[float, ...] | None:
    """Return the factors of the chosen stages, or None for 1 each. Raises InputError, naming the loss, unless they are such."""
    if value is None:
        return None
    numbers = _sequence(value)
    valid = all(
        isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= LARGEST_WEIGHT for one in numbers
    )
    if not valid or not any(numbers):
        raise InputError(
            f"stage_weights of loss '{loss}' must be numbers >= 0, one a stage and one above 0, got {short_repr(value)}: "
            "write stage_weights=[0.5,1,1]"
        )
    return tuple(float(one) for one in numbers)


def chosen(loss: str, stages: Stages, count: int) -> tuple[int, ...]:
    """Return the positions, from 0, of the chosen stages among `count` paired ones.

    Raises:
        InputError: naming the loss, for a number that no stage has, and for numbers that are not from shallow to deep.
    """
    if isinstance(stages, str):
        middle = max((count + 1) // 2 - 1, 0)
        return tuple(range(count))[
            {"all": slice(None), "last": slice(-1, None), "middle": slice(middle, middle + 1)}[stages]
        ]
    positions = [number - 1 if number > 0 else count + number for number in stages]
    if not all(0 <= position < count for position in positions):
        raise InputError(
            f"loss '{loss}' is to act on stages {list(stages)}, and {count} are paired: number them from 1 to {count}, shallow to "
            f"deep, or use {', '.join(NAMED)}"
        )
    if positions != sorted(set(positions)):
        raise InputError(
            f"loss '{loss}' is to act on stages {list(stages)} of {count}: name each once, from shallow to deep"
        )
    return tuple(positions)


def for_stages(context: LossContext, positions: Sequence[int]) -> LossContext:
    """Return the context of a loss that acts on these stages alone."""
    return replace(
        context,
        student_shapes=tuple(context.student_shapes[i] for i in positions),
        teacher_shapes=tuple(context.teacher_shapes[i] for i in positions),
    )


class WeightedStages(nn.Module):
    """A loss on each stage of its own: the sum of their values, each times its stage's weight. A weight of 0 leaves a stage out.

    Args:
        name: the loss's name, for the error.
        losses: one a stage, each built for that stage alone.
        weights: one a stage.
    """

    def __init__(self, name: str, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.name = name
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)
        self.reduction = getattr(losses[0], "reduction", None)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the weighted sum.

        Raises:
            InputError: for another number of stages than of weights, and where the loss does, naming the stage.
        """
        require_weights(self.name, self.weights, len(student_features))
        terms = []
        for i, (weight, loss) in enumerate(zip(self.weights, self.losses, strict=True)):
            if weight:
                try:
                    terms.append(weight * loss(student_features[i : i + 1], teacher_features[i : i + 1]))
                except StageError as error:
                    raise StageError(i, error.reason) from None
        return torch.stack(terms).sum()


def require_weights(loss: str, weights: Sequence[float], count: int) -> None:
    """Raise InputError, naming the loss, unless there is a weight for each of its stages."""
    if len(weights) != count:
        raise InputError(
            f"loss '{loss}' has {len(weights)} stage_weights for {count} stages: give one a stage that it acts on, shallow to deep"
        )


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or number != float(value):
        raise ValueError(value)
    return number
