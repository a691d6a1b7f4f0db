"""Metrics, gathered on the device and read once at the end: no step waits for them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from angularkd.types import Distilled

BINS = 15
"""Of the calibration error: (0, 1/15], ..., (14/15, 1]."""


class Sums(dict[str, Tensor]):
    """Sums by name, on the device where what is added lies."""

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self[name] = self[name] + value if name in self else value


class ClassifierMetrics:
    """What a classifier is worth, and how near it is to its teacher.

    accuracy, top5: share of samples whose class is the first, or among the first five (where there are more than five).
    balanced_accuracy: mean, over the classes that have samples, of the share found.
    nll:   mean negative log-likelihood of the class, in nats.
    brier: mean over samples of the sum over classes of (probability - onehot)**2, in 0..2.
    ece:   expected calibration error over 15 bins, in 0..1: sum over bins of |sum of (confidence - hit)| / samples.
    agreement: share of samples on which student and teacher name the same class.
    divergence: mean KL(teacher || student) of their predictions, in nats.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.images = 0
        self._sums = Sums()

    def update(
        self,
        logits: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"],
        teacher_logits: Float[Tensor, "batch classes"] | None = None,
    ) -> None:
        logs = F.log_softmax(logits.float(), dim=1)
        probabilities = logs.exp()
        confidence, predicted = probabilities.amax(dim=1), logits.argmax(dim=1)
        hit = (predicted == labels).float()
        onehot = F.one_hot(labels, self.num_classes)
        in_bin = F.one_hot((confidence * BINS).ceil().long().clamp(1, BINS) - 1, BINS)
        self.images += len(labels)
        self._sums.add(
            hits=(onehot * hit[:, None]).sum(dim=0),
            samples=onehot.sum(dim=0),
            nll=-logs.gather(1, labels[:, None]).sum(),
            brier=(probabilities - onehot).square().sum(),
            overconfidence=(in_bin * (confidence - hit)[:, None]).sum(dim=0),
        )
        if self.num_classes > 5:
            self._sums.add(top5=(probabilities.topk(5).indices == labels[:, None]).sum())
        if teacher_logits is not None:
            teacher = F.log_softmax(teacher_logits.float(), dim=1)
            self._sums.add(
                agreement=(predicted == teacher_logits.argmax(dim=1)).sum(),
                divergence=F.kl_div(logs, teacher, reduction="sum", log_target=True),
            )

    def compute(self) -> dict[str, float]:
        """Each metric by name, as a number."""
        hits, samples = self._sums["hits"], self._sums["samples"]
        totals = {
            "accuracy": hits.sum(),
            "balanced_accuracy": (hits / samples)[samples > 0].mean() * self.images,
            "nll": self._sums["nll"],
            "brier": self._sums["brier"],
            "ece": self._sums["overconfidence"].abs().sum(),
            **{name: self._sums[name] for name in ("top5", "agreement", "divergence") if name in self._sums},
        }
        return {name: float(total) / self.images for name, total in totals.items()}


class TrainingMeter:
    """Means over an epoch of the total, each loss term and the training accuracy, summed up on the device."""

    def __init__(self) -> None:
        self._sums = Sums()
        self.images = 0

    def update(self, out: Distilled, labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]) -> None:
        """Soft labels count as the class of their largest share."""
        count = len(labels)
        classes = labels.argmax(dim=1) if labels.ndim == 2 else labels
        hits = (out.student_logits.detach().argmax(dim=1) == classes).sum()
        values = {"loss": out.total, **out.terms}
        self._sums.add(**{name: value.detach() * count for name, value in values.items()}, train_accuracy=hits.float())
        self.images += count

    def compute(self) -> dict[str, float]:
        """The means so far; reading them waits for the device."""
        names = list(self._sums)
        values = torch.stack([self._sums[name].float() for name in names]).tolist()
        return {name: value / self.images for name, value in zip(names, values, strict=True)}
