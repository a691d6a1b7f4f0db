"""A teacher that changes its buffers in evaluation mode, but not in its first batch: found in the plan, or named at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import angularkd
from angularkd import InputError
from angularkd.models import cifar
from helpers import DIGITS, saved_weights


class Late(nn.Module):
    """Counts its forwards, which no state holds, and changes a buffer in one of them."""

    def __init__(self, trained: Path, after: int) -> None:
        super().__init__()
        self.net = cifar.create("resnet8", 10)
        self.net.load_state_dict(saved_weights(trained))
        self.register_buffer("drift", torch.zeros(()))
        self.forwards, self.after, self.num_classes = 0, after, 10

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        if self.forwards == self.after:
            self.drift += 1e-3
        return self.net(images) + self.drift


def options(trained: Path, after: int) -> dict[str, object]:
    return {**DIGITS, "teacher": Late(trained, after), "student": "cifar/resnet8", "loss": {"ce": 1.0, "kd": 1.0}}


def test_one_that_changes_after_some_batches_is_found_in_the_plan(digits_teacher, tmp_path) -> None:
    for made in (angularkd.plan, lambda **given: angularkd.distill(**given, epochs=1, out=tmp_path / "run")):
        with pytest.raises(InputError, match="the teacher changes its buffer 'drift'"):
            made(**options(digits_teacher, after=4))
    assert not (tmp_path / "run").exists()


def test_one_that_changes_in_training_is_named_at_the_end_beside_its_results(digits_teacher, tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"the teacher changed during the run, whose results in .*run are therefore not"
    ):
        angularkd.distill(**options(digits_teacher, after=40), epochs=2, out=tmp_path / "run")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["epochs"] == 2 and (tmp_path / "run/student.safetensors").is_file()
