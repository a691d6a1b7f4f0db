"""The one table of all metrics, and what is read off it: names, and how a value is printed."""

# Sums of our own: importing torchmetrics takes longer than importing torch. Tests compare them with it, with scikit-learn, with timm.

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor

from angularkd.errors import InputError, nearest
from angularkd.metrics.agreement import agreement, divergence
from angularkd.metrics.attention import (
    angles,
    angular_distance,
    attention_overlap,
    attention_similarity,
    distributions,
)
from angularkd.metrics.calibration import (
    both_curves,
    brier,
    calibrated,
    calibration_error,
    confidences,
    ece,
    mass_calibration_error,
    nll,
)
from angularkd.metrics.classification import (
    accuracy,
    as_lists,
    confusion,
    found_by_class,
    mean_recall,
    recall_by_class,
    top5,
)
from angularkd.metrics.cost import COSTS, Cost
from angularkd.metrics.metric import Metric, Sums, mean_over_images
from angularkd.metrics.robustness import accuracy_by_corruption, corrupted_hits, mean_corrupted_accuracy
from angularkd.metrics.similarity import cka, mean_cka

CLASSES = ("logits", "labels")
CALIBRATED = (*CLASSES, "temperature")
BOTH_LOGITS = ("logits", "teacher_logits")
FEATURES = ("student_features", "teacher_features")
CORRUPTED = ("images", "labels", "indices", "predict")

confidences_calibrated = calibrated(confidences)


def _share(
    summary: str,
    needs: tuple[str, ...],
    sums: Sums,
    better: Literal["higher", "lower"] | None,
    value: Callable[[Tensor, int], Any] = mean_over_images,
    **options: Any,
) -> Metric:
    """Return the row of a share in 0..1, printed in percent."""
    return Metric(summary, needs, sums, better, "%", ".2%", value, **options)


METRICS: dict[str, Metric] = {
    "accuracy": _share("share of images whose class is predicted", CLASSES, accuracy, "higher"),
    "balanced_accuracy": _share("mean over the classes of their recall", CLASSES, found_by_class, "higher", mean_recall),
    "nll": Metric("mean negative log-likelihood of the class", CLASSES, nll, "lower", "nats"),
    "brier": Metric("mean squared error of the probabilities, in 0..2", CLASSES, brier, "lower"),
    "ece": _share("expected calibration error over 15 bins", CLASSES, ece, "lower", calibration_error),
    "top5": _share("share of images whose class is among the first five", CLASSES, top5, "higher", least_classes=6),
    "agreement": _share("share of images for which the teacher predicts the same class", BOTH_LOGITS, agreement, "higher"),
    "divergence": Metric("mean KL(teacher || student) of the predictions", BOTH_LOGITS, divergence, "lower", "nats"),
    "nll_calibrated": Metric("nll after temperature scaling", CALIBRATED, calibrated(nll), "lower", "nats"),
    "brier_calibrated": Metric("brier after temperature scaling", CALIBRATED, calibrated(brier), "lower"),
    "ece_calibrated": _share("ece after temperature scaling", CALIBRATED, calibrated(ece), "lower", calibration_error),
    "ece_mass": _share("ece over 15 bins of equally many images", CLASSES, confidences, "lower", mass_calibration_error, per_image=True),
    "ece_mass_calibrated": _share(
        "ece_mass after temperature scaling", CALIBRATED, confidences_calibrated, "lower", mass_calibration_error, per_image=True,
    ),
    "cka": Metric("linear centred kernel alignment of paired stages, in 0..1", FEATURES, cka, "higher", value=mean_cka),
    "attention_similarity": Metric("cosine of the power maps of paired stages, in 0..1", FEATURES, attention_similarity, "higher"),
    "attention_overlap": Metric("overlap of the top fifth of their positions, in 0..1", FEATURES, attention_overlap, "higher"),
    "angular_distance": Metric(
        "Wasserstein-1 distance of their angles arccos(Q)", FEATURES, angles, "lower", "°", ".2f", angular_distance,
    ),
    "robustness": _share(
        "mean accuracy under 12 common corruptions x 5 severities", CORRUPTED, corrupted_hits, "higher", mean_corrupted_accuracy,
    ),
    "recall": _share("share of the images of each class that are found", CLASSES, found_by_class, None, recall_by_class),
    "confusion": Metric("images by class and predicted class", CLASSES, confusion, None, format="d", value=as_lists, most_classes=2000),
    "reliability": Metric(
        "accuracy by confidence, in bins of equal width and mass", CLASSES, confidences, None, value=both_curves, per_image=True,
    ),
    "reliability_calibrated": Metric(
        "reliability after temperature scaling", CALIBRATED, confidences_calibrated, None, value=both_curves, per_image=True,
    ),
    "angular_distributions": Metric("histograms of AMD's angles of paired stages", FEATURES, angles, None, "°", value=distributions),
    "corruptions": _share("accuracy by corruption and severity", CORRUPTED, corrupted_hits, None, accuracy_by_corruption),
}  # fmt: skip

DEFAULT_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "nll",
    "brier",
    "ece",
    "top5",
    "agreement",
    "divergence",
    "nll_calibrated",
    "brier_calibrated",
    "ece_calibrated",
)
"""The names that are computed when none are asked for, where what they need is there."""


def row_of(name: str) -> Metric | Cost:
    """Return the row of a metric over images, or of a cost."""
    return METRICS[name] if name in METRICS else COSTS[name]


def check_metrics(names: Iterable[str]) -> None:
    """Raise InputError for names that METRICS and COSTS lack, with the nearest that they have, and where there is no name."""
    names, known = list(names), (*METRICS, *COSTS)
    if not names:
        raise InputError(f"`metrics` names no metric: name some of {', '.join(known)}, or leave it out")
    for name in names:
        if name not in known:
            raise InputError(f"there is no metric '{name}'.{nearest(name, known)} All of them: {', '.join(known)}")


def format_metric(name: str, value: float) -> str:
    """Return a metric's number as it is printed: a share as 12.34%, others with four digits.

    Args:
        name: in METRICS or COSTS.
        value: the number, or one of those of a metric that is several.
    """
    return format(value, row_of(name).format)
