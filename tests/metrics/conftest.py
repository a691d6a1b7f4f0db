"""Evaluation of networks whose logits and features are given as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from angularkd.features import ModelOutput
from angularkd.metrics import evaluate
from angularkd.types import Batch

Measure = Callable[..., dict[str, float]]


@pytest.fixture
def measure() -> Measure:
    """Evaluate in batches of `size` what is given for each image, through images that hold their number."""

    def measured(
        labels: Tensor,
        logits: Tensor,
        teacher_logits: Tensor | None = None,
        features: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
        size: int = 17,
        **options: object,
    ) -> dict[str, float]:
        rows = torch.arange(len(labels))
        images = rows[:, None, None, None].float().expand(-1, 3, 2, 2)
        batches = (Batch(images[part], labels[part], part, 0) for part in rows.split(size))

        def lookup(values: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda images: values[images[:, 0, 0, 0].long()]

        def extractor(logits: Tensor, stages: Sequence[Tensor]) -> Callable[[Tensor], ModelOutput]:
            read = [lookup(stage) for stage in stages]
            return lambda images: ModelOutput(lookup(logits)(images), {None: [one(images) for one in read]}, None)

        if teacher_logits is not None:
            options["teacher"] = lookup(teacher_logits)
        if features is not None:
            options["extractors"] = extractor(logits, features[0]), extractor(logits, features[1])
        return evaluate(nn.Identity(), lookup(logits), batches, logits.shape[1], **options)

    return measured
