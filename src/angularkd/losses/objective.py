"""The objective: what a row of the table of losses says, the weights and their schedules, and the weighted sum.

It knows no loss by name: the table comes as an argument where an objective is read, and a term carries its row from there on.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from angularkd.errors import InputError, nearest
from angularkd.types import LossContext, Reduction, Signals, Terms

FEATURES = ("student_features", "teacher_features")
EMBEDDINGS = ("student_embedding", "teacher_embedding")
LOGITS = ("student_logits", "teacher_logits")
NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


@dataclass(frozen=True)
class Loss:
    """A row of the table of losses.

    Args:
        build: the loss's class.
        inputs: the signals it takes, in the order of its `forward`: names of fields of `Signals`.
        summary: what it is, in a few words.
        built_for: arguments of `build` that come from the models and the data (fields of `LossContext`), not from the user.
        short: short forms of option names, as the literature writes them.
        one_class: whether it needs samples of one class each, and cannot use mixed ones and their soft labels.
    """

    build: Callable[..., nn.Module]
    inputs: tuple[str, ...]
    summary: str
    built_for: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    one_class: bool = False

    def options(self) -> dict[str, Any]:
        """Return the options that a user may set, with their defaults."""
        parameters = inspect.signature(self.build).parameters
        return {name: p.default for name, p in parameters.items() if name not in self.built_for and p.kind is NAMED}


@dataclass(frozen=True)
class WeightSchedule:
    """How a loss's weight changes over a run, as a factor of the weight, which is constantly 1 by default.

    Args:
        warmup_epochs: the weight rises linearly from 0 over them.
        decay_to: after the warm-up it falls linearly, to this share of itself at the end of the run.
    """

    warmup_epochs: float = 0.0
    decay_to: float = 1.0

    @property
    def constant(self) -> bool:
        """Whether the factor is always 1."""
        return self.warmup_epochs == 0 and self.decay_to == 1

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the factor after `epoch` epochs, in fractions too, of a run of `epochs`."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        left = epochs - self.warmup_epochs
        progress = min((epoch - self.warmup_epochs) / left, 1.0) if left > 0 else 0.0
        return 1 - (1 - self.decay_to) * progress


SCHEDULE = tuple(WeightSchedule.__dataclass_fields__)
"""Options of the weight itself, which every loss takes."""


@dataclass(frozen=True)
class Term:
    """One loss of the objective: its row, its weight, its options, and how the weight changes over the run."""

    name: str
    row: Loss
    weight: float
    options: Mapping[str, Any]
    schedule: WeightSchedule = WeightSchedule()

    @property
    def signals(self) -> frozenset[str]:
        """The names of all signals that the loss uses, those of its attention mechanism included."""
        reduction = reduction_of(self.build(None)) if not self.row.built_for else None
        return frozenset(self.row.inputs) | (reduction.signals if reduction is not None else frozenset())

    def build(self, context: LossContext | None) -> nn.Module:
        """Build the loss.

        Args:
            context: what a loss with learned parts is built for; None will do for the others.

        Raises:
            InputError: when a loss with learned parts has no context, and when the options do not fit.
        """
        if self.row.built_for and context is None:
            raise InputError(
                f"loss '{self.name}' has parts that are built for the models: give the Distiller an `example` of the images"
            )
        given = {name: getattr(context, name) for name in self.row.built_for}
        try:
            return self.row.build(**given, **self.options)
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            defaults = ", ".join(f"{key}={default}" for key, default in self.row.options().items())
            raise InputError(
                f"loss '{self.name}' cannot be built with {dict(self.options)} ({error}); the defaults are {defaults}"
            ) from None


class WeightedLosses(nn.Module):
    """Several losses on the same signals: `forward` returns their terms, multiplied by their weights.

    The weights are whole until `set_epoch` is first called. Factors that change are a tensor on the device, so that
    compiled code need not be compiled anew, nor a step wait, when they do.

    Args:
        terms: from `angularkd.losses.read_terms`.
        context: what losses with learned parts are built for.

    Raises:
        InputError: when a loss cannot be built.
    """

    factors: Tensor

    def __init__(self, terms: Sequence[Term], context: LossContext | None = None) -> None:
        super().__init__()
        self.inputs = {term.name: term.row.inputs for term in terms}
        self.weights = {term.name: term.weight for term in terms}
        self.schedules = {term.name: term.schedule for term in terms}
        self.register_buffer("factors", torch.ones(len(terms)), persistent=False)
        self.losses = nn.ModuleDict({term.name: term.build(context) for term in terms})

    @property
    def reductions(self) -> tuple[Reduction | None, ...]:
        """The forms in which the losses need the features, each once; empty when none of them uses features."""
        return tuple(dict.fromkeys(self.reductions_by_loss.values()))

    @property
    def reductions_by_loss(self) -> dict[str, Reduction | None]:
        """The form in which each loss that uses features needs them."""
        on_features = {name: loss for name, loss in self.losses.items() if set(FEATURES) & set(self.inputs[name])}
        return {name: reduction_of(loss) for name, loss in on_features.items()}

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let the weights follow their schedules: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        for i, schedule in enumerate(self.schedules.values()):
            if not schedule.constant:
                self.factors[i].fill_(schedule.factor(epoch, epochs))

    def forward(self, signals: Signals) -> Terms:
        """Return the weighted terms by name, one scalar a loss."""
        terms = {name: self.weights[name] * loss(*self._inputs(name, signals)) for name, loss in self.losses.items()}
        return {
            name: term if self.schedules[name].constant else term * self.factors[i].clone()
            for i, (name, term) in enumerate(terms.items())
        }

    def _inputs(self, name: str, signals: Signals) -> Iterable[Any]:
        for signal in self.inputs[name]:
            value = getattr(signals, signal)
            yield value[reduction_of(self.losses[name])] if signal in FEATURES else value


def read_objective(losses: Mapping[str, float | Mapping[str, Any]], table: Mapping[str, Loss]) -> tuple[Term, ...]:
    """Return the terms of an objective, checked.

    Args:
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options:
            {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 5000.0}. A weight of 0 leaves the loss out.
            Every loss takes the options of `WeightSchedule` too.
        table: all losses by name.

    Raises:
        InputError: for an unknown loss or option (with the nearest names), a weight that is none, and an empty objective.
    """
    terms = tuple(term for term in (_term(name, value, table) for name, value in losses.items()) if term.weight != 0)
    if not terms:
        raise InputError("the objective is empty: give at least one loss a weight, for example ce=1")
    return terms


def signals_of(terms: Iterable[Term]) -> frozenset[str]:
    """Return the names of all the signals that some loss uses."""
    return frozenset(name for term in terms for name in term.signals)


def check_soft_labels(terms: Iterable[Term]) -> None:
    """Raise InputError, naming it, when a loss cannot use soft labels."""
    for term in terms:
        if term.row.one_class:
            raise InputError(
                f"loss '{term.name}' needs one class a sample, and `mixup` and `cutmix` mix two: leave one of them out, "
                "or use kd, dist or another loss without labels"
            )


def reduction_of(loss: nn.Module) -> Reduction | None:
    """Return the map of the features that is enough for the loss, or None when it needs the features whole."""
    return getattr(loss, "reduction", None)


def _term(name: str, value: float | Mapping[str, Any], table: Mapping[str, Loss]) -> Term:
    if name not in table:
        raise InputError(f"there is no loss '{name}'.{nearest(name, table)} All of them: {', '.join(table)}")
    row = table[name]
    options = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = options.pop("weight", None)
    if not _is_weight(weight):
        raise InputError(f"loss '{name}' needs a number >= 0 as its weight, got {weight!r}: write {name}=1")
    options = {row.short.get(key, key): option for key, option in options.items()}
    valid = (*row.options(), *SCHEDULE)
    for key in options:
        if key not in valid:
            raise InputError(f"loss '{name}' has no option '{key}'.{nearest(key, valid)} It takes: {', '.join(valid)}")
    schedule = _schedule(name, {key: options.pop(key) for key in SCHEDULE if key in options})
    return Term(name, row, float(weight), options, schedule)


def _schedule(name: str, options: Mapping[str, Any]) -> WeightSchedule:
    for key, value in options.items():
        if not _is_weight(value):
            raise InputError(f"{key} of loss '{name}' must be a number >= 0, got {value!r}: write {key}=2")
    return WeightSchedule(**options)


def _is_weight(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number of 0 or more; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
