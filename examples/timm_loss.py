"""Distillation in timm's train.py, whose loop is `loss = loss_fn(model(input), target)`: a model and a loss that fit it.

After `model = create_model(...)` and `train_loss_fn = ...` in train.py:

    model = DistilledModel(timm.create_model("resnet50", pretrained=True), model)
    train_loss_fn = model.loss

Optimisers, AMP, EMA, gradient accumulation and mixup (with losses that take soft labels) are timm's as before. On one GPU: several,
by DistributedDataParallel, want the loss inside of the model's forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from angularkd import Distiller


class DistilledModel(nn.Module):
    """The student; while it is trained, its output is the images, for the loss to run teacher and student on."""

    def __init__(self, teacher: nn.Module, student: nn.Module, losses: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.distiller = Distiller(teacher, student, losses)

    def forward(self, images: Tensor) -> Tensor:
        return images if self.training else self.distiller.student(images)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, from what the model gave in training and the labels, or mixed ones [batch, classes]."""
        return self.distiller(output, target).total
