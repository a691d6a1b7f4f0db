"""The objective: a weighted sum of losses with its terms by name, and the one table of all losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.losses.angular import AMDLoss
from angularkd.losses.logit import CrossEntropy, HintonKD
from angularkd.types import Reduction, Signals, Terms

FEATURES = ("student_features", "teacher_features")
LOGITS = ("student_logits", "teacher_logits")


@dataclass(frozen=True)
class Loss:
    """A row of the table: what builds the loss, which signals it takes in which order, what it is."""

    build: Callable[..., nn.Module]
    inputs: tuple[str, ...]
    summary: str
    short: Mapping[str, str] | None = None
    """Short forms of option names, as the literature writes them."""

    def options(self) -> dict[str, Any]:
        """The options that the loss takes, with their defaults."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}


LOSSES: dict[str, Loss] = {
    "ce": Loss(CrossEntropy, ("student_logits", "labels"), "cross-entropy with the labels"),
    "kd": Loss(HintonKD, LOGITS, "Hinton's distillation of softened predictions", {"T": "temperature"}),
    "amd": Loss(AMDLoss, FEATURES, "angular margin-based distillation of attention maps"),
}


@dataclass(frozen=True)
class Term:
    """One loss of the objective with its weight and its options."""

    name: str
    weight: float
    options: Mapping[str, Any]

    def build(self) -> nn.Module:
        row = LOSSES[self.name]
        valid = row.options()
        short = row.short or {}
        options = {short.get(key, key): value for key, value in self.options.items()}
        for key in options:
            if key not in valid:
                raise InputError(
                    f"loss '{self.name}' has no option '{key}'.{nearest(key, valid)} It takes: {', '.join(valid)}"
                )
        return row.build(**options)


class WeightedLosses(nn.Module):
    """Evaluates several losses on the same signals; `forward` returns their terms, multiplied by their weights.

    Args:
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options:
            {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 5000.0}. A weight of 0 leaves the loss out.
    """

    def __init__(self, losses: Mapping[str, float | Mapping[str, Any]]) -> None:
        super().__init__()
        terms = [term for term in map(_term, losses.items()) if term.weight != 0]
        if not terms:
            raise InputError("the objective is empty: give at least one loss a weight, for example ce=1")
        self.weights = {term.name: term.weight for term in terms}
        self.losses = nn.ModuleDict({term.name: term.build() for term in terms})
        self.signals = frozenset(name for term in terms for name in LOSSES[term.name].inputs)
        """The names of all the signals that some loss looks at."""

    @property
    def reductions(self) -> tuple[Reduction | None, ...]:
        """In which forms the losses want the features; empty when none of them looks at features."""
        wanted = {name: loss for name, loss in self.losses.items() if set(FEATURES) & set(LOSSES[name].inputs)}
        return tuple(dict.fromkeys(reduction_of(loss) for loss in wanted.values()))

    def forward(self, signals: Signals) -> Terms:
        return {name: self.weights[name] * loss(*_inputs(name, loss, signals)) for name, loss in self.losses.items()}


def reduction_of(loss: nn.Module) -> Reduction | None:
    """The map of the features that the loss can do with, or None when it needs the features whole."""
    return getattr(loss, "reduction", None)


def _inputs(name: str, loss: nn.Module, signals: Signals) -> Iterable[Any]:
    for wanted in LOSSES[name].inputs:
        value = getattr(signals, wanted)
        yield value[reduction_of(loss)] if wanted in FEATURES else value


def _term(item: tuple[str, float | Mapping[str, Any]]) -> Term:
    name, value = item
    if name not in LOSSES:
        raise InputError(f"there is no loss '{name}'.{nearest(name, LOSSES)} All of them: {', '.join(LOSSES)}")
    options = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = options.pop("weight", None)
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise InputError(f"loss '{name}' needs a number as its weight, got {weight!r}: write {name}=1")
    return Term(name, float(weight), options)
