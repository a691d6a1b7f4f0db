"""Golden values of the losses, from the shared folder, and how closely a loss has to agree with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

FILES = ("relu_square", "signed_square")
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative: of the loss, and of the gradients by their largest element."""


def load_golden(shared_folder: Path, file: str) -> dict[str, Tensor]:
    return load_file(shared_folder / "golden" / f"{file}.safetensors")


def golden_stages(values: dict[str, Tensor], side: str, dtype: torch.dtype) -> list[Tensor]:
    """The features `in.{side}.0` to `.2` as fresh leaves."""
    return [values[f"in.{side}.{i}"].to(dtype).clone().requires_grad_() for i in range(3)]


def assert_golden(values: dict[str, Tensor], name: str, loss: Tensor, leaves: Sequence[Tensor]) -> None:
    """The loss and its gradients with respect to the leaves are those of `out.{name}`."""
    tolerance = TOLERANCES[loss.dtype]
    torch.testing.assert_close(loss.double(), values[f"out.{name}.loss"], rtol=tolerance, atol=0)
    for i, gradient in enumerate(torch.autograd.grad(loss, leaves)):
        expected = values[f"out.{name}.grad.{i}"]
        atol = tolerance * expected.abs().max().item()
        torch.testing.assert_close(gradient.double(), expected, rtol=tolerance, atol=atol)
