"""What a teacher says of validation images, asked once a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from angularkd.distillation import still
from angularkd.metrics import Predict, evaluate
from angularkd.models import Classifier
from angularkd.training.build_data import Data
from angularkd.training.teacher_outputs import check_finite

MEASURED_IMAGES = 500
"""Validation images at most that the teacher is measured on, and training images: enough to see that it is the right one."""
OVERCONFIDENT = 0.15
"""By how much predictions on validation images are more certain, in the mean, than they are right, from which on they are called so."""
ENOUGH_IMAGES = 100
"""Validation images from which on that says something."""


@dataclass(frozen=True)
class TeacherValidation:
    """What a teacher says of at most MEASURED_IMAGES validation images.

    Attributes:
        metrics: of its predictions.
        logits: one row an image.
        labels: the images' classes.
    """

    metrics: dict[str, float]
    logits: Float[Tensor, "images classes"]
    labels: Int64[Tensor, " images"]

    @property
    def confidence(self) -> float:
        """Return the mean of its largest probabilities."""
        return float(self.logits.softmax(dim=1).amax(dim=1).mean())

    @property
    def overconfident(self) -> bool:
        """Return whether its predictions are far more certain than right."""
        enough = len(self.labels) >= ENOUGH_IMAGES
        return enough and self.confidence - self.metrics["accuracy"] >= OVERCONFIDENT


def validate_teacher(teacher: Classifier, predict: Predict, data: Data, batch_size: int) -> TeacherValidation:
    """Ask a teacher about validation images, evenly spread over the split.

    Args:
        teacher: with a classification layer for the data's classes.
        predict: its logits of images in 0..1.
        data: the data set.
        batch_size: images at once.

    Raises:
        InputError: where a logit is not finite, and for a teacher that changes while it predicts.
    """
    some = data.some("val", MEASURED_IMAGES)
    found: list[Tensor] = []

    def predicted(images: Tensor) -> Tensor:
        logits = predict(images)
        found.append(logits.float().cpu())
        return logits

    with still(teacher.module, "teacher"):
        batches = some.batches("val", batch_size).epoch(0)
        metrics = evaluate(teacher.module, predicted, batches, len(data.dataset.classes))
    logits = torch.cat(found)
    check_finite(logits, "validation")
    return TeacherValidation(metrics, logits, torch.from_numpy(some.dataset.val.labels.copy()))
