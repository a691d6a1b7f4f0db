"""The objective: a weighted sum of losses with its terms by name, and the one table of all losses."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.errors import InputError, nearest
from angularkd.losses.amd import AMDLoss
from angularkd.losses.boundary import ActivationBoundaries, FeatureOverhaul
from angularkd.losses.contrastive import CRD
from angularkd.losses.factor import FactorTransfer
from angularkd.losses.feature import AttentionTransfer, HierarchicalContext, NeuronSelectivityTransfer, SolutionFlow
from angularkd.losses.linked import AttentionLinks, ReviewKD
from angularkd.losses.logit import DIST, NKD, CrossEntropy, DecoupledKD, HintonKD
from angularkd.losses.projected import FitNet, MaskedGeneration, SoftmaxRegression, VariationalInformation
from angularkd.losses.relation import (
    CorrelationCongruence,
    ProbabilisticKnowledgeTransfer,
    RelationalKD,
    SimilarityPreserving,
)
from angularkd.types import LossContext, Reduction, Signals, Terms

FEATURES = ("student_features", "teacher_features")
EMBEDDINGS = ("student_embedding", "teacher_embedding")
LOGITS = ("student_logits", "teacher_logits")
SHAPES = ("student_shapes", "teacher_shapes")
DIMS = ("student_dim", "teacher_dim")
NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


@dataclass(frozen=True)
class Loss:
    """A row of the table.

    build:    the loss's class.
    inputs:   the signals it takes, in the order of its `forward`.
    summary:  what it is.
    built_for: arguments of `build` that come from the models and the data (fields of `LossContext`), not from the user.
    short:    short forms of option names, as the literature writes them.
    one_class: whether it needs samples of one class each, and cannot do with mixed ones and their soft labels.
    """

    build: Callable[..., nn.Module]
    inputs: tuple[str, ...]
    summary: str
    built_for: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    one_class: bool = False

    def options(self) -> dict[str, Any]:
        """The options that a user may set, with their defaults."""
        parameters = inspect.signature(self.build).parameters
        return {name: p.default for name, p in parameters.items() if name not in self.built_for and p.kind is NAMED}


LOSSES: dict[str, Loss] = {
    "ce": Loss(CrossEntropy, ("student_logits", "labels"), "cross-entropy with the labels"),
    "kd": Loss(HintonKD, LOGITS, "Hinton's distillation of softened predictions", short={"T": "temperature"}),
    "dkd": Loss(DecoupledKD, (*LOGITS, "labels"), "decoupled KD: target and the rest apart", short={"T": "temperature"}, one_class=True),
    "dist": Loss(DIST, LOGITS, "correlations of predictions within and between classes", short={"T": "temperature"}),
    "nkd": Loss(NKD, (*LOGITS, "labels"), "normalised KD: other classes on their own", short={"T": "temperature"}, one_class=True),
    "amd": Loss(AMDLoss, FEATURES, "angular margin-based distillation of attention maps"),
    "at": Loss(AttentionTransfer, FEATURES, "attention transfer: normalised power maps"),
    "nst": Loss(NeuronSelectivityTransfer, FEATURES, "neuron selectivity: distribution of the channels' maps"),
    "fsp": Loss(SolutionFlow, FEATURES, "flow of the solution: products of consecutive stages"),
    "hcl": Loss(HierarchicalContext, FEATURES, "hierarchical context: features averaged over finer and coarser cells"),
    "fitnet": Loss(FitNet, FEATURES, "FitNets: the features themselves, through a regressor", SHAPES),
    "ab": Loss(ActivationBoundaries, FEATURES, "activation boundaries", SHAPES),
    "ofd": Loss(FeatureOverhaul, FEATURES, "overhaul of feature distillation: margin ReLU, partial L2", SHAPES),
    "ft": Loss(FactorTransfer, FEATURES, "factor transfer", SHAPES),
    "vid": Loss(VariationalInformation, FEATURES, "variational information distillation", SHAPES),
    "review": Loss(ReviewKD, FEATURES, "ReviewKD: fused stages at several scales", SHAPES),
    "afd": Loss(AttentionLinks, FEATURES, "attention-based feature matching of all stages with all", SHAPES),
    "mgd": Loss(MaskedGeneration, FEATURES, "masked generative distillation", SHAPES),
    "srrl": Loss(SoftmaxRegression, EMBEDDINGS, "softmax regression through the teacher's classifier", (*DIMS, "head_weight")),
    "sp": Loss(SimilarityPreserving, FEATURES, "similarity-preserving: which samples activate alike"),
    "cc": Loss(CorrelationCongruence, EMBEDDINGS, "correlation congruence between samples", DIMS),
    "pkt": Loss(ProbabilisticKnowledgeTransfer, EMBEDDINGS, "probabilistic knowledge transfer"),
    "rkd": Loss(RelationalKD, EMBEDDINGS, "relational KD: distances and angles between samples"),
    "crd": Loss(CRD, (*EMBEDDINGS, "indices"), "contrastive representation distillation", (*DIMS, "num_samples", "labels"), one_class=True),
}  # fmt: skip


@dataclass(frozen=True)
class WeightSchedule:
    """How a loss's weight changes over a run, as a factor of the weight: constantly 1, if nothing else is said.

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
        """The factor after `epoch` epochs, in fractions too, of a run of `epochs`."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        left = epochs - self.warmup_epochs
        progress = min((epoch - self.warmup_epochs) / left, 1.0) if left > 0 else 0.0
        return 1 - (1 - self.decay_to) * progress


SCHEDULE = tuple(WeightSchedule.__dataclass_fields__)
"""Options of the weight itself, which every loss takes."""


@dataclass(frozen=True)
class Term:
    """One loss of the objective with its weight, its options, and how the weight changes over the run."""

    name: str
    weight: float
    options: Mapping[str, Any]
    schedule: WeightSchedule = WeightSchedule()

    @property
    def signals(self) -> frozenset[str]:
        """The names of all that the loss looks at, its attention mechanism included."""
        row = LOSSES[self.name]
        reduction = reduction_of(self.build(None)) if not row.built_for else None
        return frozenset(row.inputs) | (reduction.signals if reduction is not None else frozenset())

    def build(self, context: LossContext | None) -> nn.Module:
        row = LOSSES[self.name]
        if row.built_for and context is None:
            raise InputError(
                f"loss '{self.name}' has parts that are built for the models: give the Distiller an example of the images"
            )
        given = {name: getattr(context, name) for name in row.built_for}
        try:
            return row.build(**given, **self.options)
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            defaults = ", ".join(f"{key}={default}" for key, default in row.options().items())
            raise InputError(
                f"loss '{self.name}' cannot be built with {dict(self.options)} ({error}); the defaults are {defaults}"
            ) from None


class WeightedLosses(nn.Module):
    """Evaluates several losses on the same signals; `forward` returns their terms, multiplied by their weights.

    The weights are whole until `set_epoch` is first called. Factors that change are a tensor on the device, so that
    compiled code need not be compiled anew, nor a step wait, when they do.

    Args:
        terms: from `read_terms`.
        context: what losses with learned parts are built for; without them such losses are refused.
    """

    factors: Tensor

    def __init__(self, terms: Sequence[Term], context: LossContext | None = None) -> None:
        super().__init__()
        self.weights = {term.name: term.weight for term in terms}
        self.schedules = {term.name: term.schedule for term in terms}
        self.register_buffer("factors", torch.ones(len(terms)), persistent=False)
        self.losses = nn.ModuleDict({term.name: term.build(context) for term in terms})

    @property
    def reductions(self) -> tuple[Reduction | None, ...]:
        """In which forms the losses want the features; empty when none of them looks at features."""
        return tuple(dict.fromkeys(self.reductions_by_loss.values()))

    @property
    def reductions_by_loss(self) -> dict[str, Reduction | None]:
        """The same for each loss that looks at features."""
        looking = {name: loss for name, loss in self.losses.items() if set(FEATURES) & set(LOSSES[name].inputs)}
        return {name: reduction_of(loss) for name, loss in looking.items()}

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let the weights follow their schedules: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        for i, schedule in enumerate(self.schedules.values()):
            if not schedule.constant:
                self.factors[i].fill_(schedule.factor(epoch, epochs))

    def forward(self, signals: Signals) -> Terms:
        terms = {name: self.weights[name] * loss(*_inputs(name, loss, signals)) for name, loss in self.losses.items()}
        return {
            name: term if self.schedules[name].constant else term * self.factors[i].clone()
            for i, (name, term) in enumerate(terms.items())
        }


def read_terms(losses: Mapping[str, float | Mapping[str, Any]]) -> tuple[Term, ...]:
    """The terms of an objective, checked.

    Args:
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options:
            {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 5000.0}. A weight of 0 leaves the loss out.
            Every loss takes the options of `WeightSchedule` too.

    Raises InputError for an unknown loss or option (with the nearest names), a weight that is none, an empty objective.
    """
    terms = tuple(term for term in map(_term, losses.items()) if term.weight != 0)
    if not terms:
        raise InputError("the objective is empty: give at least one loss a weight, for example ce=1")
    return terms


def signals_of(terms: Iterable[Term]) -> frozenset[str]:
    """The names of all the signals that some loss looks at."""
    return frozenset(name for term in terms for name in term.signals)


def check_soft_labels(terms: Iterable[Term]) -> None:
    """Raises InputError, naming it, when a loss cannot do with soft labels."""
    for term in terms:
        if LOSSES[term.name].one_class:
            raise InputError(
                f"loss '{term.name}' needs one class a sample, and mixup and CutMix mix two: leave one of them out, "
                "or use kd, dist or another loss without labels"
            )


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
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < math.inf:
        raise InputError(f"loss '{name}' needs a number >= 0 as its weight, got {weight!r}: write {name}=1")
    row = LOSSES[name]
    options = {row.short.get(key, key): option for key, option in options.items()}
    valid = (*row.options(), *SCHEDULE)
    for key in options:
        if key not in valid:
            raise InputError(f"loss '{name}' has no option '{key}'.{nearest(key, valid)} It takes: {', '.join(valid)}")
    schedule = _schedule(name, {key: options.pop(key) for key in SCHEDULE if key in options})
    return Term(name, float(weight), options, schedule)


def _schedule(name: str, options: Mapping[str, Any]) -> WeightSchedule:
    for key, value in options.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise InputError(f"{key} of loss '{name}' must be a number >= 0, got {value!r}: write {key}=2")
    return WeightSchedule(**options)
