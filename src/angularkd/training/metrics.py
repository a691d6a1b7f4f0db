"""Metrics, gathered on the device and read once at the end: no step waits for them."""

from __future__ import annotations

from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from angularkd.types import Distilled


class ClassifierMetrics:
    """What a classifier is worth, and how near it is to its teacher.

    accuracy, top5: share of samples whose class is the first, or among the first five (where there are more than five).
    balanced_accuracy: mean over the classes of the share found.
    nll:   mean negative log-likelihood of the class, in nats.
    brier: mean over samples of the sum over classes of (probability - onehot)**2, in 0..2.
    ece:   expected calibration error over 15 bins, in 0..1.
    agreement: share of samples on which student and teacher name the same class.
    divergence: mean KL(teacher || student) of their predictions, in nats.
    """

    def __init__(self, num_classes: int) -> None:
        metrics: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "balanced_accuracy": MulticlassAccuracy(num_classes, average="macro", validate_args=False),
            "nll": MeanMetric(nan_strategy="disable"),
            "brier": MeanMetric(nan_strategy="disable"),
            "ece": MulticlassCalibrationError(num_classes, n_bins=15, validate_args=False),
        }
        if num_classes > 5:
            metrics["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5, validate_args=False)
        self.metrics = metrics
        self.beside_teacher: dict[str, Metric] = {
            "agreement": MeanMetric(nan_strategy="disable"),
            "divergence": MeanMetric(nan_strategy="disable"),
        }
        self.with_teacher = False

    def to(self, device: torch.device) -> Self:
        """Gather on this device."""
        for metric in (*self.metrics.values(), *self.beside_teacher.values()):
            metric.to(device)
        return self

    def update(
        self,
        logits: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"],
        teacher_logits: Float[Tensor, "batch classes"] | None = None,
    ) -> None:
        logits = logits.float()
        logs = F.log_softmax(logits, dim=1)
        probabilities = logs.exp()
        onehot = F.one_hot(labels, logits.shape[1])
        values = {
            "nll": -logs.gather(1, labels[:, None]),
            "brier": (probabilities - onehot).square().sum(dim=1),
        }
        for name, metric in self.metrics.items():
            if name in values:
                metric.update(values[name])
            else:
                metric.update(probabilities, labels)
        if teacher_logits is not None:
            self.with_teacher = True
            teacher = F.log_softmax(teacher_logits.float(), dim=1)
            same = (logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).float()
            self.beside_teacher["agreement"].update(same)
            self.beside_teacher["divergence"].update(
                F.kl_div(logs, teacher, reduction="none", log_target=True).sum(dim=1)
            )

    def compute(self) -> dict[str, float]:
        """Each metric by name, as a number."""
        metrics = self.metrics | (self.beside_teacher if self.with_teacher else {})
        return {name: float(metric.compute()) for name, metric in metrics.items()}


class TrainingMeter:
    """Means over an epoch of the total, each loss term and the training accuracy, summed up on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.images = 0

    def update(self, out: Distilled, labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]) -> None:
        """Soft labels count as the class of their largest share."""
        count = len(labels)
        classes = labels.argmax(dim=1) if labels.ndim == 2 else labels
        hits = (out.student_logits.detach().argmax(dim=1) == classes).sum()
        values = {"loss": out.total.detach(), **{name: term.detach() for name, term in out.terms.items()}}
        for name, value in values.items():
            self._add(name, value * count)
        self._add("train_accuracy", hits.float())
        self.images += count

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def compute(self) -> dict[str, float]:
        """The means so far; reading them waits for the device."""
        names = list(self._sums)
        values = torch.stack([self._sums[name].float() for name in names]).tolist()
        return {name: value / self.images for name, value in zip(names, values, strict=True)}
