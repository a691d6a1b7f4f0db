"""The objective: the weights of its losses, their schedules, and the weighted sum.

It knows no loss by name: the table comes as an argument where an objective is read, and a term carries its row from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from angularkd.errors import InputError, StageError, nearest, short_repr
from angularkd.features import PreActivation
from angularkd.losses.checks import require_kind
from angularkd.losses.rows import DEFAULT_SHARE, DISTILLATION_LOGITS, FEATURES, LOGITS, Loss
from angularkd.losses.stages import (
    LARGEST_WEIGHT,
    LEAST_WEIGHT,
    STAGE_WEIGHTS,
    STAGES,
    Stages,
    WeightedStages,
    chosen,
    for_stages,
    read_stage_weights,
    read_stages,
    require_weights,
)
from angularkd.types import Features, LossContext, Reduction, Signals, Terms


@runtime_checkable
class FollowsEpochs(Protocol):
    """A loss that changes over a run by itself: it follows how far the run is, as the schedules of weights are."""

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let it follow: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        ...


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
        """Return whether the factor is always 1."""
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
AUTO = "auto"
"""What stands for a weight that is found from gradients before the first step."""
SHARE = "share"
"""The option of a weight that is `auto`: which share of the first gradient the loss gets."""


@dataclass(frozen=True)
class Term:
    """One loss of the objective: its row, its weight, its options, and how the weight changes over the run.

    Args:
        name: its name in the table.
        row: its row there.
        weight: its weight; None where it is `auto`, and `share` says how it is found.
        options: those of the loss itself.
        schedule: how the weight changes over the run.
        share: of the first gradient's norms that an `auto` loss gets, between 0 and 1; None for what suits it (`WeightedLosses.shares`).
        stages: which of the paired stages it acts on, where it uses features.
        stage_weights: a factor for each of them, where the loss's class takes none itself; None for 1 each.
    """

    name: str
    row: Loss
    weight: float | None
    options: Mapping[str, Any]
    schedule: WeightSchedule = WeightSchedule()
    share: float | None = None
    stages: Stages = "all"
    stage_weights: tuple[float, ...] | None = None

    @property
    def signals(self) -> frozenset[str]:
        """Return the names of all signals that the loss uses, those of its attention mechanism included."""
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
        weights, each = self.stage_weights, [context] * len(self.stage_weights or ())
        if context is not None and context.student_shapes and self.row.on_features:
            positions = chosen(self.name, self.stages, len(context.student_shapes))
            each = [for_stages(context, [position]) for position in positions]
            context = for_stages(context, positions)
        if weights is None:
            return self._build(context)
        require_weights(self.name, weights, len(each))
        return WeightedStages(self.name, [self._build(one) for one in each], weights)

    def _build(self, context: LossContext | None) -> nn.Module:
        given = {name: getattr(context, name) for name in self.row.built_for}
        try:
            return self.row.build(**given, **self.options)
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
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
        self.before_activation = tuple(term.name for term in terms if term.row.pre_activation)
        self.weights: dict[str, float] = {term.name: term.weight for term in terms if term.weight is not None}
        self._shares = {term.name: (term.share, term.row.share) for term in terms if term.weight is None}
        self.schedules = {term.name: term.schedule for term in terms}
        self.stages = {term.name: term.stages for term in terms}
        self.register_buffer("factors", torch.ones(len(terms)), persistent=False)
        self.losses = nn.ModuleDict({term.name: term.build(context) for term in terms})

    def shares(self, cautious: bool) -> dict[str, float]:
        """Return the share of the first gradient of each loss whose weight is `auto`: the one asked for, else the row's.

        Args:
            cautious: whether losses get half where none is asked for, whatever their rows say.
        """
        return {
            name: own if asked is None and not cautious else DEFAULT_SHARE if asked is None else asked
            for name, (asked, own) in self._shares.items()
        }

    @property
    def reductions(self) -> tuple[Reduction | None, ...]:
        """Return the forms in which the losses need the features, each once; empty when none of them uses features."""
        return tuple(dict.fromkeys(self.reductions_by_loss.values()))

    @property
    def reductions_by_loss(self) -> dict[str, Reduction | None]:
        """Return the form in which each loss that uses features needs them."""
        on_features = {name: loss for name, loss in self.losses.items() if set(FEATURES) & set(self.inputs[name])}
        return {name: self._form(name, loss) for name, loss in on_features.items()}

    @property
    def on_logits(self) -> tuple[str, ...]:
        """Return the losses that use logits and labels alone."""
        return tuple(
            name for name, inputs in self.inputs.items() if set(inputs) <= {*LOGITS, DISTILLATION_LOGITS, "labels"}
        )

    @property
    def unresolved(self) -> tuple[str, ...]:
        """Return the losses whose weights are `auto` and not found yet."""
        return tuple(name for name in self.losses if name not in self.weights)

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let the weights follow their schedules, and losses theirs: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        for i, schedule in enumerate(self.schedules.values()):
            if not schedule.constant:
                self.factors[i].fill_(schedule.factor(epoch, epochs))
        for loss in self.losses.values():
            if isinstance(loss, FollowsEpochs):
                loss.set_epoch(epoch, epochs)

    def forward(self, signals: Signals) -> Terms:
        """Return the weighted terms by name, one scalar a loss; a loss whose weight is `auto` and not found yet counts once."""
        terms = {name: self.weights.get(name, 1.0) * self._value(name, signals) for name in self.losses}
        return {
            name: term if self.schedules[name].constant else term * self.factors[i].clone()
            for i, (name, term) in enumerate(terms.items())
        }

    def _value(self, name: str, signals: Signals) -> Tensor:
        """Return the value of a loss. Its errors name a stage by its position among all that are paired."""
        try:
            value: Tensor = self.losses[name](*self._inputs(name, signals))
        except StageError as error:
            paired = len(next(iter(signals.student_features.values())))
            raise StageError(chosen(name, self.stages[name], paired)[error.stage], error.reason) from None
        return value

    def _inputs(self, name: str, signals: Signals) -> Iterable[Any]:
        for signal in self.inputs[name]:
            value = getattr(signals, signal)
            yield self._chosen(name, value[self._form(name, self.losses[name])]) if signal in FEATURES else value

    def _chosen(self, name: str, stages: Features) -> Features:
        return [stages[i] for i in chosen(name, self.stages[name], len(stages))]

    def _form(self, name: str, loss: nn.Module) -> Reduction | None:
        return PreActivation() if name in self.before_activation else reduction_of(loss)


def read_objective(
    losses: Mapping[str, float | str | Mapping[str, Any]], table: Mapping[str, Loss]
) -> tuple[Term, ...]:
    """Return the terms of an objective, checked.

    Args:
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options:
            {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": "auto"}. A weight of 0 leaves the loss out; one that is
            "auto" is found before the first step, so that the loss gets `share` of the first gradient.
            Every loss takes the options of `WeightSchedule` too.
        table: all losses by name.

    Raises:
        InputError: for an unknown loss or option (with the nearest names), a weight that is none, and an empty objective.
    """
    terms = tuple(term for term in (_term(name, value, table) for name, value in losses.items()) if term.weight != 0)
    if not terms:
        raise InputError("the objective is empty: give at least one loss a weight, for example ce=1")
    shares = {term.name: term.row.share if term.share is None else term.share for term in terms if term.weight is None}
    if len(shares) == len(terms):
        raise InputError(
            f"the weights of {' and '.join(shares)} are auto, which is found beside others: add one with a number, such as `loss=ce=1`"
        )
    if sum(shares.values()) >= 1:
        raise InputError(
            f"the shares of {' and '.join(shares)} are {sum(shares.values()):g} in all, which leaves nothing to the others: "
            "give shares whose sum is below 1"
        )
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


def _term(name: str, value: float | str | Mapping[str, Any], table: Mapping[str, Loss]) -> Term:
    if name not in table:
        known = nearest(str(name).lower(), table)
        raise InputError(f"`loss`: there is no loss '{name}'.{known} All of them: {', '.join(table)}")
    row = table[name]
    options: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = options.pop("weight", None)
    share = options.pop(SHARE, None)
    if weight != AUTO and not _is_weight(weight):
        raise InputError(
            f"loss '{name}' needs a number >= 0 as its weight, or auto, got {short_repr(weight)}: write {name}=1, or {name}={AUTO} "
            f"(a weight is 0, or between {LEAST_WEIGHT:g} and {LARGEST_WEIGHT:g})"
        )
    if share is not None and (weight != AUTO or not _is_weight(share) or not 0 < share < 1):
        raise InputError(
            f"share of loss '{name}' is the part of the first gradient that a weight of auto gives it, between 0 and 1, got "
            f"{short_repr(share)} for the weight {short_repr(weight)}: write {name}={AUTO},{SHARE}=0.5"
        )
    for short, long in row.short.items():
        if short in options and long in options:
            raise InputError(f"loss '{name}' is given its {long} twice, as {short} too: leave one of them out")
    options = {row.short.get(key, key): option for key, option in options.items()}
    valid = (*row.options(), *SCHEDULE, SHARE)
    for key in options:
        if key not in valid:
            known = nearest(key, valid) or (
                f" {key} is a loss of its own: give it a `loss` of its own." if key in table else ""
            )
            raise InputError(f"loss '{name}' has no option '{key}'.{known} It takes: {', '.join(valid)}")
    annotations = row.annotations()
    for key in options.keys() & annotations.keys():
        if key == STAGE_WEIGHTS and not isinstance(options[key], str):
            options[key] = read_stage_weights(name, options[key])
        require_kind(name, key, options[key], annotations[key])
    schedule = _schedule(name, {key: options.pop(key) for key in SCHEDULE if key in options})
    found = None if weight == AUTO else float(weight)
    stages = read_stages(name, options.pop(STAGES, row.stages)) if row.on_features else row.stages
    weights = None if row.weighs_stages else read_stage_weights(name, options.pop(STAGE_WEIGHTS, None))
    return Term(name, row, found, options, schedule, None if share is None else float(share), stages, weights)


def _schedule(name: str, options: Mapping[str, Any]) -> WeightSchedule:
    for key, value in options.items():
        if not _is_weight(value):
            raise InputError(
                f"{key} of loss '{name}' must be a number >= 0, at most {LARGEST_WEIGHT:g}, got {short_repr(value)}: write {key}=2"
            )
    return WeightSchedule(**options)


def _is_weight(value: Any) -> TypeGuard[float]:
    """Whether the value is 0 or a number above it that can be computed with; True and False are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value == 0 or LEAST_WEIGHT <= value <= LARGEST_WEIGHT)
