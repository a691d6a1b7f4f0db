"""Learning-rate schedules against PyTorch's own and against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from angularkd.training.optimisation import schedule


def rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(*args, steps: int, **options) -> list[float]:
    factor = schedule(*args, **options)
    return [factor(step) for step in range(steps)]


def test_cosine_is_pytorchs() -> None:
    expected = rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=50), 50)
    assert ours("cosine", 50, 0, steps=50) == pytest.approx(expected)


def test_one_cycle_is_pytorchs() -> None:
    expected = rates(
        lambda optimizer: OneCycleLR(optimizer, 1.0, total_steps=101, pct_start=31 / 101, final_div_factor=1e9), 101
    )
    assert ours("onecycle", 100, 30, steps=101) == pytest.approx(expected, abs=1e-6)


def test_one_cycle_warms_up_for_three_tenths_by_default() -> None:
    assert max(range(100), key=schedule("onecycle", 100, 0)) == 30
    assert max(range(100), key=schedule("onecycle", 100, 10)) == 10


def test_steps_drop_at_the_milestones() -> None:
    values = ours("step", 10, 0, (0.5, 0.8), 0.1, steps=10)
    assert values == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


@pytest.mark.parametrize("name", ["cosine", "constant", "step"])
def test_warm_up_rises_linearly_to_the_peak(name) -> None:
    values = ours(name, 20, 4, (0.5,), 0.1, steps=20)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_schedules_end_low_and_never_exceed_the_peak() -> None:
    for name in ("cosine", "onecycle"):
        values = ours(name, 200, 10, steps=200)
        assert max(values) == pytest.approx(1.0)
        assert values[-1] < 0.001
