"""Evaluation of a classifier, alone or beside its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from angularkd.modes import mode
from angularkd.training.metrics import ClassifierMetrics
from angularkd.types import Batch

Predict = Callable[[Tensor], Tensor]


def evaluate(
    model: nn.Module, predict: Predict, batches: Iterable[Batch], num_classes: int, teacher: Predict | None = None
) -> dict[str, float]:
    """The metrics of `ClassifierMetrics` over all batches.

    Args:
        model: put into evaluation mode meanwhile; every module's mode is what it was afterwards.
        predict: from images in 0..1 to the model's logits, preprocessing included.
        teacher: likewise of a teacher to compare with.
    """
    metrics = ClassifierMetrics(num_classes)
    with mode(model, training=False), torch.inference_mode():
        for batch in batches:
            teacher_logits = teacher(batch.images) if teacher is not None else None
            metrics.update(predict(batch.images), batch.labels, teacher_logits)
        assert metrics.images, "no batch to evaluate on"
        return metrics.compute()
