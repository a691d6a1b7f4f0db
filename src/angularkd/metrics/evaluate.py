"""Evaluation of a classifier, alone or beside its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from angularkd.metrics.classification import ClassifierMetrics
from angularkd.system.modes import mode
from angularkd.types import Batch

Predict = Callable[[Tensor], Tensor]

MEMORY_SHARE = 0.25
"""Part of a GPU's free memory that an evaluation may take."""
LARGEST_BATCH = 4096


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


def largest_batch(predict: Predict, image_size: tuple[int, int], device: torch.device, at_least: int) -> int:
    """Images to evaluate at once: as many as fit into MEMORY_SHARE of a GPU's free memory, up to LARGEST_BATCH.

    On other devices `at_least`, the batch of training, where more gain nothing.
    """
    if device.type != "cuda":
        return at_least
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        predict(torch.zeros(at_least, 3, *image_size, device=device))
    an_image = max(1, (torch.cuda.max_memory_allocated(device) - before) // at_least)
    free, _ = torch.cuda.mem_get_info(device)
    return max(at_least, min(LARGEST_BATCH, int(MEMORY_SHARE * free) // an_image))
