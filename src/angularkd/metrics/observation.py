"""An observation: what metrics compute from, the signals of one batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from angularkd.types import Features

SIGNALS = (
    "images",
    "labels",
    "indices",
    "predict",
    "temperature",
    "logits",
    "teacher_logits",
    "student_features",
    "teacher_features",
)
"""The names that a metric may need."""


class Observation:
    """The signals of one batch, and what several metrics derive from them, computed once.

    It has only the signals that some requested metric needs; any other raises AttributeError.

    Attributes:
        num_classes: number of classes of the data.
        images: RGB in 0..1, [batch, 3, height, width].
        labels: the class of each image, [batch].
        indices: the row of each image in its split, on the host, [batch].
        predict: from other images in 0..1 to the model's logits.
        temperature: by which the logits are divided to calibrate them.
        logits: of the model, [batch, classes].
        teacher_logits: of its teacher, [batch, classes].
        student_features: of the model's paired stages, [batch, channel, height, width] each.
        teacher_features: of the teacher's paired stages, likewise and in the same order.
    """

    num_classes: int
    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, " batch"]
    indices: Int[Tensor, " batch"]
    predict: Callable[[Tensor], Tensor]
    temperature: float
    logits: Float[Tensor, "batch classes"]
    teacher_logits: Float[Tensor, "batch classes"]
    student_features: Features
    teacher_features: Features

    def __init__(self, num_classes: int, **signals: Any) -> None:
        self.num_classes = num_classes
        vars(self).update(signals)

    @cached_property
    def log_probabilities(self) -> Float[Tensor, "batch classes"]:
        """Return the logarithms of the probabilities, in float32."""
        return F.log_softmax(self.logits.float(), dim=1)

    @cached_property
    def probabilities(self) -> Float[Tensor, "batch classes"]:
        """Return the probability of each class."""
        return self.log_probabilities.exp()

    @cached_property
    def confidence(self) -> Float[Tensor, " batch"]:
        """Return the largest probability of each image."""
        return self.probabilities.amax(dim=1)

    @cached_property
    def predicted(self) -> Int[Tensor, " batch"]:
        """Return the class of the largest logit of each image."""
        return self.logits.argmax(dim=1)

    @cached_property
    def hits(self) -> Bool[Tensor, " batch"]:
        """Return whether the predicted class is the image's own."""
        return self.predicted == self.labels

    @cached_property
    def onehot(self) -> Int[Tensor, "batch classes"]:
        """Return 1 at the image's own class and 0 at the others."""
        return F.one_hot(self.labels, self.num_classes)

    @cached_property
    def calibrated(self) -> Observation:
        """Return the labels with the logits divided by the temperature."""
        return Observation(self.num_classes, labels=self.labels, logits=self.logits.float() / self.temperature)
