"""The one table of all metrics, and what is read off it: names, and how a value is printed."""

# Sums of our own: importing torchmetrics takes longer than importing torch. Tests compare them with scikit-learn and with definitions.

from __future__ import annotations

from collections.abc import Iterable

from angularkd.errors import InputError, nearest
from angularkd.metrics.agreement import agreement, divergence
from angularkd.metrics.calibration import brier, calibration_error, ece, nll
from angularkd.metrics.classification import accuracy, balanced_accuracy, mean_recall, top5
from angularkd.metrics.metric import Metric
from angularkd.metrics.similarity import attention_similarity, cka, mean_cka

CLASSES = ("logits", "labels")
BOTH_LOGITS = ("logits", "teacher_logits")
FEATURES = ("student_features", "teacher_features")

METRICS: dict[str, Metric] = {
    "accuracy": Metric("share of images whose class is predicted", CLASSES, accuracy, "higher", "%", ".2%"),
    "balanced_accuracy": Metric("mean over the classes of their recall", CLASSES, balanced_accuracy, "higher", "%", ".2%", mean_recall),
    "nll": Metric("mean negative log-likelihood of the class", CLASSES, nll, "lower", "nats"),
    "brier": Metric("mean squared error of the probabilities, in 0..2", CLASSES, brier, "lower"),
    "ece": Metric("expected calibration error over 15 bins", CLASSES, ece, "lower", "%", ".2%", calibration_error),
    "top5": Metric("share of images whose class is among the first five", CLASSES, top5, "higher", "%", ".2%", least_classes=6),
    "agreement": Metric("share of images for which the teacher predicts the same class", BOTH_LOGITS, agreement, "higher", "%", ".2%"),
    "divergence": Metric("mean KL(teacher || student) of the predictions", BOTH_LOGITS, divergence, "lower", "nats"),
    "cka": Metric("linear centred kernel alignment of paired stages, in 0..1", FEATURES, cka, "higher", value=mean_cka),
    "attention_similarity": Metric("cosine of the power maps of paired stages, in 0..1", FEATURES, attention_similarity, "higher"),
}  # fmt: skip

DEFAULT_METRICS = ("accuracy", "balanced_accuracy", "nll", "brier", "ece", "top5", "agreement", "divergence")
"""The names that are computed when none are asked for, where what they need is there."""


def check_metrics(names: Iterable[str]) -> None:
    """Raise InputError for names that METRICS lacks, with the nearest that it has, and where there is no name."""
    names = list(names)
    if not names:
        raise InputError(f"`metrics` names no metric: name some of {', '.join(METRICS)}, or leave it out")
    for name in names:
        if name not in METRICS:
            raise InputError(f"there is no metric '{name}'.{nearest(name, METRICS)} All of them: {', '.join(METRICS)}")


def format_metric(name: str, value: float) -> str:
    """Return a metric's value as it is printed: a share as 12.34%, others with four digits.

    Args:
        name: in METRICS.
    """
    return format(value, METRICS[name].format)
