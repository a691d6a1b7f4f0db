"""The training loop with networks and data of a few numbers: what is called when, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from angularkd import Distiller, InputError
from angularkd.training import Training, TrainingMeter, TrainingState, fit, loop
from angularkd.training.ema import AveragedStudent
from angularkd.types import Batch

STEPS = 4


class Few:
    """Four batches of three images, the same in every epoch; each names its epoch and step by what it is asked for."""

    batch_size = 3

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int) -> Iterator[Batch]:
        self.epochs.append(epoch)
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(step)
            images = torch.rand(3, 3, 4, 4, generator=generator)
            yield Batch(images, torch.arange(3), torch.arange(3), epoch)


@dataclass
class Notes:
    """An observer that notes what it is told, and validates with the accuracies it was given."""

    accuracies: list[float]
    student: nn.Module
    nll: float = 1.0
    events: list[tuple[Any, ...]] = field(default_factory=list)
    best_weights: Tensor | None = None

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        assert meter.images == 3 * step
        self.events.append(("step", epoch, step))

    def validate(self) -> dict[str, float]:
        self.events.append(("validate",))
        return {"accuracy": self.accuracies.pop(0), "nll": self.nll}

    def best(self) -> None:
        self.events.append(("best",))
        self.best_weights = self.student[1].weight.detach().clone()

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        assert state.history[-1] is row
        self.events.append(("epoch", row["epoch"]))


def training(epochs: int, **more: Any) -> Training:
    torch.manual_seed(0)
    distiller = Distiller(None, nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), {"ce": 1.0})
    optimizer = SGD(distiller.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(distiller, optimizer)
    return Training(fabric, wrapped, optimizer, scheduler, Few(), epochs, **more)


def student_of(found: Training) -> nn.Module:
    return found.distiller.student


def test_an_epoch_is_steps_validation_the_best_and_a_row() -> None:
    found, state = training(3), TrainingState()
    notes = Notes([0.5, 0.7, 0.7], student_of(found))
    fit(found, state, notes)
    steps = [[("step", epoch, step) for step in range(1, STEPS + 1)] for epoch in range(3)]
    assert notes.events == [
        *(*steps[0], ("validate",), ("best",), ("epoch", 1)),
        *(*steps[1], ("validate",), ("best",), ("epoch", 2)),
        *(*steps[2], ("validate",), ("epoch", 3)),  # as good as the best is no better
    ]
    assert found.batches.epochs == [0, 1, 2]
    assert (state.epoch, state.step, state.best_epoch, state.best_accuracy) == (3, 3 * STEPS, 2, 0.7)
    assert [row["epoch"] for row in state.history] == [1, 2, 3]
    assert [row["step"] for row in state.history] == [STEPS, 2 * STEPS, 3 * STEPS]
    for row in state.history:
        assert row["lr"] == pytest.approx(0.1 / row["step"]) and row["images_per_second"] > 0
        assert row["loss"] == pytest.approx(row["ce"]) and row["val_nll"] == 1.0
        assert 0 <= row["train_accuracy"] <= 1
    assert state.history[-1]["ce"] < state.history[0]["ce"]


def test_the_steps_are_those_of_a_slow_loop() -> None:
    found = training(2)
    fit(found, TrainingState(), Notes([0.1, 0.1], student_of(found)))
    torch.manual_seed(0)
    slow = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    optimizer, step = SGD(slow.parameters(), lr=0.1), 0
    for epoch in range(2):
        for batch in Few().epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            loss = nn.functional.cross_entropy(slow(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(student_of(found)[1].weight, slow[1].weight)


def test_it_goes_on_where_the_state_stands() -> None:
    found = training(3)
    state = TrainingState(epoch=2, step=2 * STEPS, best_epoch=1, best_accuracy=0.9)
    notes = Notes([0.8], student_of(found))
    fit(found, state, notes)
    assert found.batches.epochs == [2] and state.epoch == 3 and state.step == 3 * STEPS
    assert ("best",) not in notes.events and (state.best_epoch, state.best_accuracy) == (1, 0.9)
    fit(found, state, notes)
    assert found.batches.epochs == [2], "nothing is left to do"


def test_schedules_of_weights_follow_the_epoch_in_fractions(monkeypatch) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(Distiller, "set_epoch", lambda self, epoch, epochs: asked.append((epoch, epochs)))
    found = training(2)
    fit(found, TrainingState(), Notes([0.1, 0.1], student_of(found)))
    assert asked == [(epoch + step / STEPS, 2) for epoch in range(2) for step in range(STEPS)]


def test_gradients_are_clipped() -> None:
    whole, clipped = training(1), training(1, clip_norm=1e-4)
    before = student_of(clipped)[1].weight.detach().clone()
    for found in (whole, clipped):
        fit(found, TrainingState(), Notes([0.1], student_of(found)))
    moved = [(student_of(found)[1].weight - before).norm().item() for found in (whole, clipped)]
    rates = sum(0.1 / (1 + step) for step in range(STEPS))
    assert moved[1] <= 1.01 * rates * 1e-4 < moved[0] / 100


def test_the_average_follows_every_step() -> None:
    found = training(2)
    average = AveragedStudent(student_of(found), 0.5)
    updates: list[Tensor] = []
    update = average.update
    average.update = lambda: updates.append(student_of(found)[1].weight.detach().clone()) or update()
    fit(replace(found, average=average), TrainingState(), Notes([0.1, 0.1], student_of(found)))
    assert len(updates) == 2 * STEPS and torch.equal(updates[-1], student_of(found)[1].weight)


class Ruined(nn.Module):
    """A student whose logits are not numbers from its n-th forward on."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 3)
        self.left = good

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        logits = self.linear(images.flatten(1))
        return logits if self.left >= 0 else logits * math.nan


def ruined(good: int, epochs: int = 3) -> Training:
    found = training(epochs)
    distiller = Distiller(None, Ruined(good), {"ce": 1.0})
    optimizer = SGD(distiller.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    wrapped, optimizer = found.fabric.setup(distiller, optimizer)
    return replace(found, distiller=wrapped, optimizer=optimizer, scheduler=scheduler)


@pytest.mark.parametrize(
    ("good", "epochs_done", "message"),
    [
        (0, 0, r"in epoch 1, by step 4 \(terms: ce\); no epoch was finished, so start anew with another `out`"),
        (STEPS + 2, 1, r"in epoch 2, by step 8 \(terms: ce\); the checkpoint of epoch 1 is saved: lower `lr`"),
    ],
)
def test_a_loss_that_is_not_finite_stops_it_before_anything_is_saved(good, epochs_done, message) -> None:
    found, state = ruined(good), TrainingState()
    notes = Notes([0.5, 0.6, 0.7], nn.Sequential(nn.Identity(), student_of(found).linear))
    with pytest.raises(InputError, match=message):
        fit(found, state, notes)
    assert state.epoch == epochs_done
    assert [event for event in notes.events if event[0] == "epoch"] == [("epoch", n + 1) for n in range(epochs_done)]


def test_the_loss_is_read_now_and_then_within_an_epoch(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    found, state = ruined(0), TrainingState()
    with pytest.raises(InputError, match="in epoch 1, by step 2 "):
        fit(found, state, Notes([0.5], nn.Identity()))


def test_a_last_step_that_ruins_the_student_is_found_by_validation() -> None:
    found, state = training(1), TrainingState()
    notes = Notes([0.5], student_of(found), nll=math.inf)
    with pytest.raises(InputError, match=r"terms: nll on the validation images"):
        fit(found, state, notes)
    assert notes.events[-1] == ("validate",) and state.epoch == 0 and not state.history
