"""Distillation losses, all in one table. They know tensors only: no model, no configuration, no layer name.

A loss is a module from signals (fields of `angularkd.types.Signals`) to a scalar. `LOSSES` names every one, with the signals that
it takes; `read_terms` turns an objective, {"ce": 0.1, "kd": 0.9, "amd": 5000}, into terms of that table, and `WeightedLosses`
evaluates them.

To add a loss, write one file, one row and one test:

1. A file here, or a class in the file whose idea it shares: an `nn.Module` whose constructor takes the options, each with a
   default, and whose `forward` takes the signals. `checks` refuses what no loss can use and brings both sides to one precision; the
   teacher's side is detached there. A loss that needs no more than a map of the features says so by an attribute `reduction`
   (`feature.AttentionTransfer`); one with learned parts takes what it is built for first (`projected.FitNet`). One
   that changes over a run has a `set_epoch` (`curriculum.CurriculumTemperature`).
2. A row in `LOSSES`: the class, the signals in the order of `forward`, and what it is in a few words; `paper` and `usual_weight`;
   `built_for`, the fields of `angularkd.types.LossContext` that a loss with learned parts is built for; `one_class` where soft
   labels cannot be used; on features, the `stages` that its reference acts on, `linked` where it compares them with each other,
   and `pre_activation` where features from before a stage's last activation are due. The options `stages` and `stage_weights` come
   by themselves, and so do the command line, the plan, `angularkd list losses` and, by `as_markdown`, the table in docs/losses.md.
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
from angularkd.losses.curriculum import CurriculumTemperature, InstanceTemperature
from angularkd.losses.decoupled import NKD, DecoupledKD
from angularkd.losses.deit import HardDistillation, TokenDistillation
from angularkd.losses.embedding import EmbeddingMatch, SimpleRecipe
from angularkd.losses.factor import FactorTransfer
from angularkd.losses.feature import AttentionTransfer, HierarchicalContext, NeuronSelectivityTransfer, SolutionFlow
from angularkd.losses.linked import AttentionLinks, ReviewKD
from angularkd.losses.logit import DIST, CrossEntropy, HintonKD
from angularkd.losses.multilevel import MultiLevel
from angularkd.losses.notes import notes_of
from angularkd.losses.objective import (
    SCHEDULE,
    Term,
    WeightedLosses,
    check_soft_labels,
    read_objective,
    signals_of,
)
from angularkd.losses.overview import as_markdown, overview, paper_link, paper_name
from angularkd.losses.projected import FitNet, MaskedGeneration, VariationalInformation
from angularkd.losses.relation import (
    CorrelationCongruence,
    ProbabilisticKnowledgeTransfer,
    RelationalKD,
    SimilarityPreserving,
)
from angularkd.losses.rows import DISTILLATION_LOGITS, EMBEDDINGS, FEATURES, LOGITS, Loss
from angularkd.losses.wasserstein import WassersteinCKA, WassersteinLogits
from angularkd.losses.weighted import WeightedSoftLabels

__all__ = [
    "DISTILLATION_LOGITS",
    "EMBEDDINGS",
    "FEATURES",
    "LOGITS",
    "LOSSES",
    "SCHEDULE",
    "AMDLoss",
    "Loss",
    "Term",
    "WeightedLosses",
    "as_markdown",
    "check_soft_labels",
    "notes_of",
    "overview",
    "paper_link",
    "paper_name",
    "read_terms",
    "signals_of",
]

SHAPES = ("student_shapes", "teacher_shapes")
DIMS = ("student_dim", "teacher_dim")

LOSSES: dict[str, Loss] = {
    "ce": Loss(CrossEntropy, ("student_logits", "labels"), "cross-entropy with the labels",
        usual_weight="1, or 0.1 beside kd=0.9"),
    "kd": Loss(HintonKD, LOGITS, "Hinton's distillation of softened predictions", short={"T": "temperature"},
        usual_weight="0.9 beside ce=0.1; with standardise 9, T=2", paper="1503.02531"),
    "dkd": Loss(DecoupledKD, (*LOGITS, "labels"), "decoupled KD: target and the rest apart", short={"T": "temperature"}, one_class=True,
        usual_weight="1: alpha 1, beta 0.5 to 8", paper="2203.08679"),
    "dist": Loss(DIST, LOGITS, "correlations of predictions within and between classes", short={"T": "temperature"},
        usual_weight="2", paper="2205.10536"),
    "nkd": Loss(NKD, (*LOGITS, "labels"), "normalised KD: other classes on their own", short={"T": "temperature"}, one_class=True,
        usual_weight="1: gamma 1.5", paper="2303.13005"),
    "hard": Loss(HardDistillation, LOGITS, "DeiT's hard distillation: the teacher's most probable class as a label",
        usual_weight="0.5 beside ce=0.5", paper="2012.12877"),
    "token": Loss(TokenDistillation, (DISTILLATION_LOGITS, "teacher_logits"),
        "DeiT's distillation token: a second head of the student learns from the teacher", short={"T": "temperature"},
        usual_weight="0.5 beside ce=0.5", paper="2012.12877"),
    "mlkd": Loss(MultiLevel, LOGITS, "multi-level KD: predictions, samples and classes at several temperatures",
        usual_weight="0.9 beside ce=0.1", paper="https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"),
    "ctkd": Loss(CurriculumTemperature, LOGITS, "curriculum temperature: Hinton's KD, harder and harder",
        usual_weight="0.9 beside ce=0.1", paper="2211.16231"),
    "ictkd": Loss(InstanceTemperature, LOGITS, "instance-wise CTKD: a temperature for each sample", ("num_classes",),
        usual_weight="0.9 beside ce=0.1", paper="2211.16231"),
    "wsld": Loss(WeightedSoftLabels, (*LOGITS, "labels"), "weighted soft labels: less where the student knows better",
        short={"T": "temperature"}, one_class=True, usual_weight="2.5", paper="2102.00650"),
    "wkd": Loss(WassersteinLogits, (*LOGITS, "labels"), "Wasserstein distance of predictions, classes alike being close", ("head_weight",),
        short={"T": "temperature"}, one_class=True, usual_weight="1: gamma 800", paper="2412.08139"),
    "wkd_cka": Loss(WassersteinCKA, (*LOGITS, "labels"), "the same, classes being alike whose images the teacher answers alike",
        ("class_logits",), short={"T": "temperature"}, one_class=True, usual_weight="1: gamma 800", paper="2412.08139"),
    "amd": Loss(AMDLoss, FEATURES, "angular margin-based distillation of attention maps",
        usual_weight="auto; 5000 at 8x8", paper="2302.14130", share=0.9),
    "at": Loss(AttentionTransfer, FEATURES, "attention transfer: normalised power maps",
        usual_weight="1000", paper="1612.03928"),
    "nst": Loss(NeuronSelectivityTransfer, FEATURES, "neuron selectivity: distribution of the channels' maps",
        usual_weight="50", paper="1707.01219"),
    "fsp": Loss(SolutionFlow, FEATURES, "flow of the solution: products of consecutive stages",
        usual_weight="50", linked=True, paper="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"),
    "hcl": Loss(HierarchicalContext, FEATURES, "hierarchical context: features averaged over finer and coarser cells",
        usual_weight="1", paper="2104.09044"),
    "fitnet": Loss(FitNet, FEATURES, "FitNets: the features themselves, through a regressor", SHAPES,
        usual_weight="100", stages="middle", paper="1412.6550"),
    "ab": Loss(ActivationBoundaries, FEATURES, "activation boundaries", SHAPES, pre_activation=True,
        usual_weight="1", paper="1811.03233"),
    "ofd": Loss(FeatureOverhaul, FEATURES, "overhaul of feature distillation: margin ReLU, partial L2", SHAPES, pre_activation=True,
        usual_weight="0.001; ImageNet 0.0001", paper="1904.01866"),
    "ft": Loss(FactorTransfer, FEATURES, "factor transfer", SHAPES,
        usual_weight="500; 200 with rate=null", stages="last", paper="1802.04977"),
    "vid": Loss(VariationalInformation, FEATURES, "variational information distillation", SHAPES,
        usual_weight="1", paper="1904.05835"),
    "review": Loss(ReviewKD, FEATURES, "ReviewKD: fused stages at several scales", SHAPES, pre_activation=True,
        usual_weight="0.6 to 8", linked=True, paper="2104.09044"),
    "afd": Loss(AttentionLinks, FEATURES, "attention-based feature matching of all stages with all", SHAPES,
        usual_weight="200", linked=True, paper="2102.02973"),
    "mgd": Loss(MaskedGeneration, FEATURES, "masked generative distillation", SHAPES,
        usual_weight="0.00007", stages="last", paper="2205.01529"),
    "embedding": Loss(EmbeddingMatch, EMBEDDINGS, "the pooled embeddings themselves, by cosine or squared distance", DIMS,
        usual_weight="1", paper="2312.06709"),
    "srd": Loss(SimpleRecipe, EMBEDDINGS, "simple recipe: batch-normalised embeddings, a soft maximum of differences", DIMS,
        usual_weight="1", paper="2303.11098"),
    "srrl": Loss(SoftmaxRegression, EMBEDDINGS, "softmax regression through the teacher's classifier", (*DIMS, "head_weight"),
        usual_weight="1", paper="https://openreview.net/forum?id=ZzwDy_wiWv"),
    "sp": Loss(SimilarityPreserving, FEATURES, "similarity-preserving: which samples activate alike",
        usual_weight="3000", stages="last", paper="1907.09682"),
    "cc": Loss(CorrelationCongruence, EMBEDDINGS, "correlation congruence between samples", DIMS,
        usual_weight="0.02", paper="1904.01802"),
    "pkt": Loss(ProbabilisticKnowledgeTransfer, EMBEDDINGS, "probabilistic knowledge transfer",
        usual_weight="30000", paper="1803.10837"),
    "rkd": Loss(RelationalKD, EMBEDDINGS, "relational KD: distances and angles between samples",
        usual_weight="1: 25 and 50 within", paper="1904.05068"),
    "crd": Loss(CRD, (*EMBEDDINGS, "indices"), "contrastive representation distillation", (*DIMS, "num_samples", "labels"), one_class=True,
        usual_weight="0.8", paper="1910.10699"),
}  # fmt: skip


def read_terms(losses: Mapping[str, float | str | Mapping[str, Any]]) -> tuple[Term, ...]:
    """Return the terms of an objective, checked against LOSSES.

    Args:
        losses: from a loss's name to its weight, or to a mapping of `weight` and the loss's options:
            {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 5000.0}. A weight of 0 leaves the loss out.
            Every loss takes `warmup_epochs` and `decay_to` of its weight too.

    Raises:
        InputError: for an unknown loss or option (with the nearest names), a weight that is none, and an empty objective.
    """
    return read_objective(losses, LOSSES)
