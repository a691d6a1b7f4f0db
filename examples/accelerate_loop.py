"""Distillation with Hugging Face's Accelerate, which takes the Distiller as the model: mixed precision, devices, accumulation."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from angularkd import Distiller


def distil(
    teacher: nn.Module, student: nn.Module, loader: DataLoader, epochs: int, accelerator: Accelerator
) -> nn.Module:
    """Train the student on batches of images and labels; the teacher goes to the device along with it."""
    distiller = Distiller(teacher, student)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    distiller, optimizer, loader = accelerator.prepare(distiller, optimizer, loader)
    for epoch in range(epochs):
        distiller.train()
        for images, labels in loader:
            with accelerator.accumulate(distiller):
                out = distiller(images, labels)
                accelerator.backward(out.total)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {out.total.item():.3f}")
    return accelerator.unwrap_model(distiller).student.eval()
