"""The training loop with networks and data of a few numbers: what is called when, and what stops it."""

from __future__ import annotations

import math
import signal
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
from angularkd.system.stopping import Stop, Stopped
from angularkd.training import Training, TrainingMeter, TrainingState, fit
from angularkd.training.cadence import Cadence
from angularkd.training.ema import AveragedStudent
from angularkd.training.nonfinite import StepRecord
from angularkd.types import Batch

STEPS = 4


class Few:
    """Four batches of three images, the same in every epoch; each names its epoch and step by what it is asked for."""

    batch_size = 3

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return STEPS

    @staticmethod
    def whole(count: int) -> Few:
        """The same images, so many batches in one."""

        class Larger(Few):
            batch_size = 3 * count

            def __len__(self) -> int:
                return STEPS // count

            def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
                batches = list(Few().epoch(epoch))
                for start in range(first * count, STEPS, count):
                    some = batches[start : start + count]
                    images, labels = (torch.cat([getattr(one, name) for one in some]) for name in ("images", "labels"))
                    yield Batch(images, labels, labels, epoch)

        return Larger()

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        self.epochs.append(epoch)
        for step in range(first, STEPS):
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

    def best(self, state: TrainingState) -> None:
        self.events.append(("best",))
        self.best_weights = self.student[1].weight.detach().clone()

    def save(self, state: TrainingState) -> None:
        self.events.append(("save", state.epoch, state.within["steps"] if state.within is not None else 0))

    def nonfinite(self, record: StepRecord, state: TrainingState, *, final: bool) -> str:
        self.events.append(("nonfinite", record.step, final))
        return f"terms: {', '.join(record.terms)}"

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        assert state.history[-1] is row
        self.events.append(("epoch", row["epoch"]))


class Silently(Notes):
    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Count nothing."""


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
        *(*steps[0], ("validate",), ("best",), ("save", 1, 0), ("epoch", 1)),
        *(*steps[1], ("validate",), ("best",), ("save", 2, 0), ("epoch", 2)),
        *(*steps[2], ("validate",), ("save", 3, 0), ("epoch", 3)),  # as good as the best is no better
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


def with_student(found: Training, student: nn.Module) -> Training:
    distiller = Distiller(None, student, {"ce": 1.0})
    optimizer = SGD(distiller.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    wrapped, optimizer = found.fabric.setup(distiller, optimizer)
    return replace(found, distiller=wrapped, optimizer=optimizer, scheduler=scheduler)


def ruined(good: int, epochs: int = 3) -> Training:
    return with_student(training(epochs), Ruined(good))


def in_double(found: Training) -> Training:
    student_of(found).double()
    return replace(found, batches=_Double(found.batches))


@dataclass
class _Double:
    """Batches in double precision."""

    batches: Few

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        for batch in self.batches.epoch(epoch, first):
            yield replace(batch, images=batch.images.double())


@pytest.mark.parametrize(("good", "epochs_done", "step"), [(0, 0, 1), (2, 0, 3), (STEPS + 2, 1, STEPS + 3)])
def test_a_loss_that_is_not_finite_is_caught_at_once(good, epochs_done, step) -> None:
    found, state = ruined(good), TrainingState()
    notes = Notes([0.5, 0.6, 0.7], nn.Sequential(nn.Identity(), student_of(found).linear))
    with pytest.raises(InputError, match=f"not finite in epoch {epochs_done + 1}, at step {step}: terms: ce"):
        fit(found, state, notes)
    assert state.epoch == epochs_done and notes.events[-1] == ("nonfinite", step, True)
    assert [event for event in notes.events if event[0] == "epoch"] == [("epoch", n + 1) for n in range(epochs_done)]
    assert all(parameter.isfinite().all() for parameter in student_of(found).parameters())


def test_a_last_step_that_ruins_the_student_is_found_by_validation() -> None:
    found, state = training(1), TrainingState()
    notes = Notes([0.5], student_of(found), nll=math.inf)
    with pytest.raises(InputError, match=r"not finite on the validation images after epoch 1 \(nll inf\)"):
        fit(found, state, notes)
    assert notes.events[-1] == ("validate",) and state.epoch == 0 and not state.history


class Gappy(Few):
    """The images of some steps of an epoch hold a number that is none, or make a gradient that is none."""

    def __init__(self, bad: dict[int, float]) -> None:
        super().__init__()
        self.bad = bad

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(epoch, first), start=first):
            batch.images[0, 0, 0, 0] = self.bad.get(number, batch.images[0, 0, 0, 0])
            yield batch


def test_a_step_that_is_not_finite_can_be_left_out() -> None:
    found, state = replace(training(2), skip_nonfinite=True), TrainingState()
    found = replace(found, batches=Gappy({1: math.nan}))
    notes = Silently([0.5, 0.6], student_of(found))
    fit(found, state, notes)
    assert [row["skipped_steps"] for row in state.history] == [1, 1]
    assert all(math.isfinite(row["loss"]) for row in state.history) and state.step == 2 * STEPS
    assert [event for event in notes.events if event[0] == "nonfinite"] == [
        ("nonfinite", step, False) for step in (2, 6)
    ]
    torch.manual_seed(0)
    slow = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    optimizer, step = SGD(slow.parameters(), lr=0.1), 0
    for _ in range(2):
        for number, batch in enumerate(Few().epoch(0)):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            step += 1
            if number != 1:
                optimizer.zero_grad()
                nn.functional.cross_entropy(slow(batch.images), batch.labels).backward()
                optimizer.step()
    torch.testing.assert_close(student_of(found)[1].weight, slow[1].weight)


def test_many_in_a_row_end_it_all_the_same(monkeypatch) -> None:
    monkeypatch.setattr("angularkd.training.loop.MOST_IN_A_ROW", 2)
    found = replace(training(2), skip_nonfinite=True, batches=Gappy({1: math.nan, 2: math.inf, 3: math.nan}))
    with pytest.raises(InputError, match="at step 4: so were the 2 steps before it, which were left out: terms: ce"):
        fit(found, TrainingState(), Silently([0.5], student_of(found)))
    found = replace(training(2), skip_nonfinite=True, batches=Gappy(dict.fromkeys(range(STEPS), math.nan)))
    monkeypatch.setattr("angularkd.training.loop.MOST_IN_A_ROW", 20)
    with pytest.raises(InputError, match="no step of epoch 1 was finite, so all were left out"):
        fit(found, TrainingState(), Silently([0.5], student_of(found)))


def test_statistics_of_a_step_that_is_left_out_are_put_back() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))
    found = with_student(training(1), student)
    fit(
        replace(found, skip_nonfinite=True, batches=Gappy({2: math.nan})),
        TrainingState(),
        Silently([0.5], nn.ModuleList(student[i] for i in (0, 2))),
    )
    assert student[0].num_batches_tracked == STEPS - 1 and student[0].running_mean.isfinite().all()


class _InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


def test_a_gradient_that_is_not_finite_is_caught_before_it_is_used() -> None:
    class Steep(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return _InfiniteGradient.apply(super().forward(images.flatten(1)))

    student = Steep(48, 3)
    before = student.weight.detach().clone()
    with pytest.raises(InputError, match=r"not finite in epoch 1, at step 1: terms: $"):
        fit(with_student(training(1), student), TrainingState(), Notes([0.5], nn.Identity()))
    assert torch.equal(student.weight, before)


@pytest.mark.parametrize(
    ("count", "unit", "expected"),
    [
        (1, "epochs", [(1, 0), (2, 0), (3, 0)]),
        (2, "epochs", [(2, 0), (3, 0)]),
        (3, "steps", [(0, 3), (1, 2), (2, 1), (2, 4), (3, 0)]),
        (4, "steps", [(0, 4), (1, 4), (2, 4), (3, 0)]),
        (1e9, "minutes", [(3, 0)]),
    ],
)
def test_checkpoints_are_written_as_often_as_is_asked_and_at_the_end(count, unit, expected) -> None:
    found = replace(training(3), cadence=Cadence(count, unit))
    notes = Notes([0.5, 0.5, 0.5], student_of(found))
    fit(found, TrainingState(), notes)
    assert [event[1:] for event in notes.events if event[0] == "save"] == expected


class _Asking(Notes):
    """Asks to stop after a step, or while it validates."""

    stop: Stop
    at: tuple[int, int] | str

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        if self.at == (epoch, step):
            self.stop.request(signal.SIGTERM)

    def validate(self) -> dict[str, float]:
        if self.at == "validation":
            torch.rand(3)
            self.stop.request(signal.SIGTERM)
        return super().validate()

    def save(self, state: TrainingState) -> None:
        super().save(state)
        self.drawn = torch.get_rng_state()


@pytest.mark.parametrize("at", [(0, 1), (1, 2), (1, STEPS), "validation"])
def test_it_stops_where_it_is_asked_to_and_has_saved_all(at) -> None:
    found = training(3)
    notes = _Asking([0.5, 0.5, 0.5], student_of(found))
    notes.stop, notes.at = found.stop, at
    before, state = torch.get_rng_state(), TrainingState()
    with pytest.raises(Stopped) as stopped:
        fit(found, state, notes)
    assert stopped.value.saved and stopped.value.number == signal.SIGTERM
    epoch, step = at if at != "validation" else (0, STEPS)
    assert notes.events[-1] == ("save", epoch, step)
    assert torch.equal(notes.drawn, before), "what validation has drawn is drawn again"


@pytest.mark.parametrize("at", [(0, 1), (1, 2), (1, STEPS), "validation"])
def test_a_state_within_an_epoch_goes_on_where_it_was(at) -> None:
    whole, found = training(2), training(2)
    state, same_state = TrainingState(), TrainingState()
    fit(whole, state, Notes([0.5, 0.6], student_of(whole)))
    notes = _Asking([0.5, 0.6], student_of(found))
    notes.stop, notes.at = found.stop, at
    with pytest.raises(Stopped):
        fit(found, same_state, notes)
    fit(replace(found, stop=Stop()), same_state, Silently(notes.accuracies, student_of(found)))
    assert torch.equal(student_of(found)[1].weight, student_of(whole)[1].weight)
    for row, expected in zip(same_state.history, state.history, strict=True):
        assert {**row, "images_per_second": 0} == {**expected, "images_per_second": 0}


def test_accumulated_gradients_are_those_of_the_larger_batch() -> None:
    larger = Few.whole(2)
    found, expected = in_double(training(2)), in_double(replace(training(2), batches=larger))
    for one, accumulate in ((found, 2), (expected, 1)):
        fit(replace(one, accumulate=accumulate), TrainingState(), Silently([0.1, 0.1], student_of(one)))
    torch.testing.assert_close(student_of(found)[1].weight, student_of(expected)[1].weight, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("accumulate", "steps", "images"), [(1, 4, 12), (2, 2, 12), (3, 1, 9), (4, 1, 12), (9, 1, 12)])
def test_steps_are_those_of_the_optimiser(accumulate, steps, images) -> None:
    found, state = replace(training(1), accumulate=accumulate), TrainingState()
    notes = _Counting([0.1], student_of(found))
    fit(found, state, notes)
    assert state.step == steps and notes.seen == [images // steps * n for n in range(1, steps + 1)]
    assert found.scheduler.last_epoch == steps


class _Counting(Notes):
    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        self.seen = [*getattr(self, "seen", []), meter.images]
