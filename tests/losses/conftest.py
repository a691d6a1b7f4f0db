"""The golden values of shared/golden, which every loss with such values is held to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FILES = ("relu_square", "signed_square")
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


class Golden:
    """One golden file at one precision: `golden["labels"]` is an input, `golden.stages("teacher")` all stages."""

    def __init__(self, file: Path, dtype: torch.dtype) -> None:
        self.expected = _load(file)
        self.dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        """An input; the student's wait for a gradient."""
        value = self.expected[f"in.{name}"]
        if not value.is_floating_point():
            return value
        return value.to(self.dtype, copy=True).requires_grad_(name.startswith("student"))

    def stages(self, name: str) -> list[Tensor]:
        return [self[f"{name}.{stage}"] for stage in range(3)]

    def check(self, name: str, loss: Tensor, student: Tensor | Sequence[Tensor]) -> None:
        """The loss, and its gradient with respect to the student's inputs, are the file's, relative to their size."""
        inputs = [student] if isinstance(student, Tensor) else list(student)
        self._check(f"out.{name}.loss", loss)
        for index, gradient in enumerate(torch.autograd.grad(loss, inputs)):
            self._check(f"out.{name}.grad.{index}", gradient)

    def _check(self, key: str, value: Tensor) -> None:
        assert value.dtype == self.dtype
        expected = self.expected[key]
        off = (value.detach().double() - expected).abs().max() / expected.abs().max()
        assert off <= TOLERANCES[self.dtype], f"{key} is off by {off:.1e} of its largest value"


@cache
def _load(file: Path) -> dict[str, Tensor]:
    return load_file(file)


@pytest.fixture(params=[(file, dtype) for file in FILES for dtype in TOLERANCES], ids=lambda p: f"{p[0]}-{p[1]}")
def golden(request: pytest.FixtureRequest, shared_folder: Path) -> Golden:
    file, dtype = request.param
    path = shared_folder / "golden" / f"{file}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden values at {path}")
    return Golden(path, dtype)
