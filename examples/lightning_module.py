"""Distillation in PyTorch Lightning: the module holds a Distiller. Give it to any Trainer; its checkpoints hold the student alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from angularkd import Distiller


class DistilledClassifier(pl.LightningModule):
    """A student that learns from a frozen teacher, on batches of (images, labels)."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, losses: Mapping[str, Any] | None = None, lr: float = 0.05
    ) -> None:
        super().__init__()
        self.distiller = Distiller(teacher, student, losses)
        self.lr = lr

    def forward(self, images: Tensor) -> Tensor:
        return self.distiller.student(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        out = self.distiller(*batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in out.terms.items()})
        return out.total

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        self.log("val/accuracy", (self(images).argmax(dim=1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.distiller.parameters(), lr=self.lr, momentum=0.9, nesterov=True)
