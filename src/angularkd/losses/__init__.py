"""Distillation losses, all in one table. They know tensors only: no model, no configuration, no layer name.

A loss is a module from signals (fields of `angularkd.types.Signals`) to a scalar. `LOSSES` names every one, with the signals that
it takes; `read_terms` turns an objective, {"ce": 0.1, "kd": 0.9, "amd": 5000}, into terms of that table, and `WeightedLosses`
evaluates them.

To add a loss, write one file, one row and one test:

1. A file here, or a class in the file whose idea it shares: an `nn.Module` whose constructor takes the options, each with a
   default, and whose `forward` takes the signals. `checks` refuses what no loss can use and brings both sides to one precision; the
   teacher's side is detached there. A loss that needs no more than a map of the features says so by an attribute `reduction`
   (`feature.AttentionTransfer`); one with learned parts takes what it is built for first (`projected.FitNet`).
2. A row in `LOSSES`: the class, the signals in the order of `forward`, and what it is in a few words; `built_for`, the fields of
   `angularkd.types.LossContext` that a loss with learned parts is built for; `one_class` where soft labels cannot be used. The
   command line, the plan and `angularkd list losses` take it from there.
3. A test in `tests/losses`: a slow oracle written from the paper, gradients, and what is refused. `tests/losses/test_table.py`
   trains every row as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from angularkd.losses.amd import AMDLoss
from angularkd.losses.boundary import ActivationBoundaries, FeatureOverhaul
from angularkd.losses.classifier import SoftmaxRegression
from angularkd.losses.contrastive import CRD
from angularkd.losses.decoupled import NKD, DecoupledKD
from angularkd.losses.factor import FactorTransfer
from angularkd.losses.feature import AttentionTransfer, HierarchicalContext, NeuronSelectivityTransfer, SolutionFlow
from angularkd.losses.linked import AttentionLinks, ReviewKD
from angularkd.losses.logit import DIST, CrossEntropy, HintonKD
from angularkd.losses.objective import (
    EMBEDDINGS,
    FEATURES,
    LOGITS,
    SCHEDULE,
    Loss,
    Term,
    WeightedLosses,
    check_soft_labels,
    read_objective,
    reduction_of,
    signals_of,
)
from angularkd.losses.projected import FitNet, MaskedGeneration, VariationalInformation
from angularkd.losses.relation import (
    CorrelationCongruence,
    ProbabilisticKnowledgeTransfer,
    RelationalKD,
    SimilarityPreserving,
)

__all__ = [
    "EMBEDDINGS",
    "FEATURES",
    "LOGITS",
    "LOSSES",
    "SCHEDULE",
    "AMDLoss",
    "Loss",
    "Term",
    "WeightedLosses",
    "check_soft_labels",
    "read_terms",
    "reduction_of",
    "signals_of",
]

SHAPES = ("student_shapes", "teacher_shapes")
DIMS = ("student_dim", "teacher_dim")

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


def read_terms(losses: Mapping[str, float | Mapping[str, Any]]) -> tuple[Term, ...]:
    """Return the terms of an objective, checked against LOSSES.

    Args:
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options:
            {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 5000.0}. A weight of 0 leaves the loss out.
            Every loss takes `warmup_epochs` and `decay_to` of its weight too.

    Raises:
        InputError: for an unknown loss or option (with the nearest names), a weight that is none, and an empty objective.
    """
    return read_objective(losses, LOSSES)
