"""Learning-rate schedules against PyTorch's own and against their definitions; fused optimisers against the others."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import angularkd
from angularkd.training.optimisation import build_optimizer, schedule
from helpers import DIGITS


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


def test_milestones_are_fractions_of_the_whole_run_also_behind_a_warm_up() -> None:
    values = ours("step", 10, 4, (0.5, 0.8), 0.1, steps=10)
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0] + [0.1] * 3 + [0.01] * 2)


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(tmp_path) -> None:
    options = {**DIGITS, "schedule": "step", "milestones": (0.5,), "gamma": 0.1, "lr": 0.05}
    run = angularkd.train(**options, model="cifar/resnet8", epochs=2, out=str(tmp_path / "run"))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.005])


# Optimisers


def trained(name: str, fused: bool, late: bool, overflows: tuple[int, ...], momentum: float = 0.9) -> Tensor:
    """Six steps of two layers, of which the second may be skipped in the first two steps, whose gradients may overflow."""
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    parameters = [*first.parameters(), *second.parameters()]
    rates = {"lr": 0.1, "weight_decay": 0.01, "momentum": momentum, "nesterov": True}
    optimizer = build_optimizer(name, parameters, **rates, unscales=not fused)
    assert bool(optimizer.defaults["fused"]) == fused
    for memory in (torch.full((4, 4), 1e36) for _ in range(20)):
        del memory  # what memory that nobody writes to may hold
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=bool(overflows))
    for step in range(6):
        hidden = first(torch.randn(3, 4))
        loss = (hidden if late and step < 2 else second(hidden)).square().mean()
        scaler.scale(loss * float("inf") if step in overflows else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@pytest.mark.parametrize("overflows", [(), (0,), (0, 1, 3), (2,)])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adamw", 0.9)])
def test_a_fused_optimiser_steps_as_the_others_do(name, momentum, late, overflows) -> None:
    found, expected = (trained(name, fused, late, overflows, momentum) for fused in (True, False))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_first_step_is_that_of_the_fused_kernel_to_the_bit() -> None:
    rates = {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True}
    weights = []
    for make in (
        lambda parameters: torch.optim.SGD(parameters, **rates, fused=True),
        lambda parameters: build_optimizer("sgd", parameters, **rates, unscales=False),
    ):
        torch.manual_seed(0)
        layer = nn.Linear(64, 64)
        optimizer = make(list(layer.parameters()))
        for _ in range(3):
            layer(torch.randn(8, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)
