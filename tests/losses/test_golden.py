"""Values of AMD, KD and DKD that were computed without this package and stand beside the code: every clone can check them.

`tests/golden/make.py` says where they come from. The tests with the fixture `golden` check many more where the shared folder is.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from angularkd.losses import AMDLoss
from angularkd.losses.decoupled import DecoupledKD
from angularkd.losses.logit import CrossEntropy, HintonKD

FOLDER = Path(__file__).parents[1] / "golden"
SQUARE = load_file(FOLDER / "square.safetensors")
ODD = json.loads((FOLDER / "odd.json").read_text())
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}

each_precision = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def stages(side: str, dtype: torch.dtype) -> list[Tensor]:
    """Two power maps and the features of the last, smallest stage, which wait for a gradient."""
    features = [SQUARE[f"{side}.{index}"].to(dtype, copy=True) for index in range(3)]
    features[2].requires_grad_(side == "student")
    return features


def assert_near(value: Tensor, expected: Tensor) -> None:
    """The values are the expected ones, relative to the largest."""
    off = (value.detach().double() - expected).abs().max() / expected.abs().max()
    assert off <= TOLERANCES[value.dtype], f"off by {off:.1e} of the largest value"


@each_precision
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("amd_global.s64.m1.35", {}),
        ("amd_global.s64.m1.0", {"margin": 1.0}),
        ("amd_global.s64.m2.0", {"margin": 2.0}),
        ("amd_global.s8.m1.35", {"scale": 8.0}),
        ("amd_global_local4.s64.m1.35", {"grid": 2, "local_weight": 0.2}),
    ],
)
def test_amd_on_square_maps_is_the_authors(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    student, teacher = stages("student", dtype), stages("teacher", dtype)
    loss = AMDLoss(**options)(student, teacher)
    assert_near(loss, SQUARE[f"{name}.loss"])
    if f"{name}.grad" in SQUARE:
        assert_near(torch.autograd.grad(loss, student[2])[0], SQUARE[f"{name}.grad"])


@each_precision
@pytest.mark.parametrize("name", ODD)
def test_amd_on_odd_maps_is_the_papers(name: str, dtype: torch.dtype) -> None:
    case = ODD[name]
    student = torch.tensor(case["student"], dtype=dtype, requires_grad=True)
    loss = AMDLoss(**case["options"])([student], [torch.tensor(case["teacher"], dtype=dtype)])
    assert_near(loss, torch.tensor(case["loss"], dtype=torch.float64))
    assert_near(torch.autograd.grad(loss, student)[0], torch.tensor(case["gradient"], dtype=torch.float64))


@each_precision
@pytest.mark.parametrize("name", ["kd.T4", "dkd.a1.b8.T4"])
def test_distillation_of_logits_is_golden(name: str, dtype: torch.dtype) -> None:
    student = SQUARE["student_logits"].to(dtype, copy=True).requires_grad_()
    teacher = SQUARE["teacher_logits"].to(dtype)
    if name == "kd.T4":
        loss = HintonKD(temperature=4.0)(student, teacher)
    else:
        loss = DecoupledKD(alpha=1.0, beta=8.0, temperature=4.0)(student, teacher, SQUARE["labels"])
    assert_near(loss, SQUARE[f"{name}.loss"])
    assert_near(torch.autograd.grad(loss, student)[0], SQUARE[f"{name}.grad"])


def test_distillation_of_two_classes_by_hand() -> None:
    """At T = 2 the student says (3/4, 1/4) and the teacher (1/2, 1/2): KL = 1/2 log(2/3) + 1/2 log 2."""
    student = torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    loss = HintonKD(temperature=2.0)(student, torch.zeros(1, 2, dtype=torch.float64))
    assert loss.item() == pytest.approx(4 * math.log(4 / 3) / 2, rel=1e-14)
    # T**2 * (softmax of the student - the teacher's) / T
    assert torch.autograd.grad(loss, student)[0].tolist()[0] == pytest.approx([2 * 0.25, -2 * 0.25], rel=1e-14)
    labels = torch.tensor([1])
    assert CrossEntropy()(student / 2, labels).item() == pytest.approx(math.log(4), rel=1e-14)
