"""The training loop, the only one: training, fine-tuning and distilling differ in what the distiller computes."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from angularkd.data import Batches
from angularkd.distillation import Distiller
from angularkd.errors import InputError
from angularkd.system import ranks
from angularkd.system.stopping import Stop, Stopped
from angularkd.training.cadence import Cadence
from angularkd.training.checkpoint import random_states, restore_random_states
from angularkd.training.ema import AveragedStudent
from angularkd.training.meter import TrainingMeter
from angularkd.training.nonfinite import MOST_IN_A_ROW, NonfiniteGuard, StepRecord
from angularkd.training.optimisation import batches_a_step, steps_an_epoch
from angularkd.training.replica import Replica, average_statistics
from angularkd.training.state import EpochPart, TrainingState
from angularkd.types import Batch, Distilled


@dataclass(frozen=True)
class Training:
    """What the loop works with.

    Attributes:
        fabric: the device and the arithmetic.
        distiller, optimizer: set up by `fabric`; of several processes, the distiller is a `Replica`.
        scheduler: of the learning rate, stepped after every optimiser step.
        batches: the training images; of several processes, this one's part of each batch.
        epochs: passes over them, in all.
        clip_norm: largest norm of the gradient; None for any.
        average: the moving average of the student's weights, where one is taken.
        accumulate: batches whose gradients make one optimiser step.
        skip_nonfinite: whether a step whose loss or gradient is not finite is left out, rather than the end.
        cadence: when checkpoints are written.
        stop: asks the loop to save and end, which it does after the step that is under way.
    """

    fabric: Fabric
    distiller: Distiller | Replica
    optimizer: Optimizer
    scheduler: LRScheduler
    batches: Batches
    epochs: int
    clip_norm: float | None = None
    average: AveragedStudent | None = None
    accumulate: int = 1
    skip_nonfinite: bool = False
    cadence: Cadence = field(default_factory=Cadence)
    stop: Stop = field(default_factory=Stop)


class Observer(Protocol):
    """What the loop calls beside training."""

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Follow an optimiser step; `step` counts from 1 within the epoch."""
        ...

    def validate(self) -> dict[str, float]:
        """Return the metrics of the student on the validation images, `accuracy` and `nll` among them."""
        ...

    def best(self, state: TrainingState) -> None:
        """Save the student, which is the best by validation accuracy so far, in the state, too."""
        ...

    def save(self, state: TrainingState) -> None:
        """Save everything that a resumption needs."""
        ...

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        """Log an epoch, with its row of metrics.jsonl."""
        ...

    def nonfinite(self, record: StepRecord, state: TrainingState, *, final: bool) -> str:
        """Write down a step whose loss or gradient is not finite; where it is `final`, say in a phrase where that comes from."""
        ...


def fit(training: Training, state: TrainingState, observer: Observer) -> None:
    """Train from where `state` stands, within an epoch too, until all epochs are done; `state` is updated in place.

    After every epoch: validate, save the best student by validation accuracy, save the state where that is due.

    Raises:
        InputError: when a loss or a gradient is not finite; the last checkpoint stays as it is.
        Stopped: when `training.stop` asked for the end; whether everything is saved, it says.
    """
    training.cadence.restart(state)
    guard = NonfiniteGuard(
        training.distiller,
        training.optimizer,
        training.fabric.device,
        skip=training.skip_nonfinite,
        scaled=getattr(training.fabric.strategy.precision, "scaler", None) is not None,
    )
    with training.stop.deferred():
        while state.epoch < training.epochs:
            part = EpochPart.of(state)
            _take_steps(training, state, part, guard, observer)
            _end_epoch(training, state, part, observer)


def _take_steps(
    training: Training, state: TrainingState, part: EpochPart, guard: NonfiniteGuard, observer: Observer
) -> None:
    """Take the steps of an epoch that are left."""
    started = time.perf_counter() - part.seconds
    training.distiller.train()
    count = batches_a_step(len(training.batches), training.accumulate)
    batches = training.batches.epoch(state.epoch, part.steps * count)
    steps = steps_an_epoch(len(training.batches), training.accumulate)
    while part.steps < steps:
        first = _first_batch(training, state, part, batches, guard, observer)
        training.distiller.set_epoch(state.epoch + part.steps / steps, training.epochs)
        guard.begin()
        step = _gradients(training, itertools.islice(itertools.chain((first,), batches), count), count)
        record = StepRecord(
            state.epoch, state.step + 1, part.steps * count, count, [one.indices for one in step], first.view
        )
        left_out = guard.found(record, [one.out.total for one in step])
        if left_out:
            _leave_out(training, state, part, guard, replace(record, terms=_broken(step)), observer)
        else:
            _take(training, part, step)
        part.lr = float(training.scheduler.get_last_lr()[0])
        _advance(training.scheduler, quietly=left_out)
        training.optimizer.zero_grad()
        state.step += 1
        part.steps += 1
        part.seconds = time.perf_counter() - started
        if guard.due(state.step):
            _ask(guard, state, observer)
        observer.step(state.epoch, part.steps, part.meter)
        if not ranks.together() and (training.stop.number is not None or training.cadence.due(state)):
            _ask(guard, state, observer)
            _save(training, state, part, observer, training.stop.number)
    _ask(guard, state, observer)
    part.seconds = time.perf_counter() - started


def _first_batch(
    training: Training,
    state: TrainingState,
    part: EpochPart,
    batches: Iterator[Batch],
    guard: NonfiniteGuard,
    observer: Observer,
) -> Batch:
    """Return the first batch of a step, before which all is as it was after the last one.

    Here several processes agree whether to save, and to stop: each of them may have been asked at another moment.
    """
    batch, failure = None, None
    try:
        batch = next(batches)
    except InputError as error:
        if training.stop.number is None:
            raise
        failure = error  # the processes that decode were asked to stop, too
    asked, due = training.stop.number, failure is not None
    if ranks.together():
        asked, due = _agreed(training, state)
    if due or failure is not None:
        _ask(guard, state, observer)
        _save(training, state, part, observer, asked)
    if batch is None:
        assert failure is not None
        raise failure
    return batch


def _agreed(training: Training, state: TrainingState) -> tuple[int | None, bool]:
    """Return by which signal some process was asked to stop, if any, and whether a checkpoint is due, therefore or by the cadence."""
    asked, due = ranks.most(training.stop.number or 0, training.cadence.due(state))
    return asked or None, bool(asked or due)


class _Done(NamedTuple):
    """What remains of a batch when its gradients are there: not its images."""

    labels: Tensor
    indices: Tensor
    out: Distilled


def _gradients(training: Training, batches: Iterable[Batch], count: int) -> list[_Done]:
    """Add up the gradients of the mean loss of some batches, and return what each gave."""
    step: list[_Done] = []
    for batch in batches:
        waits = (
            ranks.together() and len(step) + 1 < count
        )  # the gradients of all processes are added up with the last batch
        with training.fabric.no_backward_sync(training.distiller) if waits else nullcontext():  # type: ignore[arg-type]
            out = training.distiller(batch.images, batch.labels, batch.indices, batch.view)
            training.fabric.backward(out.total if count == 1 else out.total / count)
        step.append(_Done(batch.labels, batch.indices, out))
    return step


def _take(training: Training, part: EpochPart, step: Sequence[_Done]) -> None:
    """Take the optimiser's step with the gradients that are there."""
    if training.clip_norm is not None:
        training.fabric.clip_gradients(
            training.distiller, training.optimizer, max_norm=training.clip_norm, error_if_nonfinite=False
        )
    training.optimizer.step()
    average_statistics(training.distiller)
    if training.average is not None:
        training.average.update()
    for done in step:
        part.meter.update(done.out, done.labels)


def _leave_out(
    training: Training,
    state: TrainingState,
    part: EpochPart,
    guard: NonfiniteGuard,
    record: StepRecord,
    observer: Observer,
) -> None:
    """Leave a step out, or stop, if that is what is asked for, or it happens step after step."""
    if not training.skip_nonfinite:
        raise _refusal(record, observer.nonfinite(record, state, final=True))
    guard.put_back()
    part.skipped += 1
    if guard.streak > MOST_IN_A_ROW:
        text = observer.nonfinite(record, state, final=True)
        raise _refusal(record, f"so were the {MOST_IN_A_ROW} steps before it, which were left out: {text}")
    if guard.streak == 1:
        observer.nonfinite(record, state, final=False)


def _advance(scheduler: LRScheduler, *, quietly: bool) -> None:
    """Advance the learning rate; quietly where the optimiser has not stepped, of which PyTorch would warn at first."""
    with warnings.catch_warnings() if quietly else nullcontext():
        if quietly:
            warnings.simplefilter("ignore", UserWarning)
        scheduler.step()


def _ask(guard: NonfiniteGuard, state: TrainingState, observer: Observer) -> None:
    """Ask a device whose answers are waited for whether all steps so far were finite."""
    record = guard.read()
    if record is not None:
        raise _refusal(record, observer.nonfinite(record, state, final=True))


def _save(training: Training, state: TrainingState, part: EpochPart, observer: Observer, asked: int | None) -> None:
    """Save everything within an epoch, and end if a signal has asked for that."""
    state.within = part.state_dict()
    observer.save(state)
    training.cadence.restart(state)
    if asked is not None:
        raise Stopped(asked, saved=True)


def _end_epoch(training: Training, state: TrainingState, part: EpochPart, observer: Observer) -> None:
    """Validate, save what is to be saved, and log the epoch."""
    meter = part.meter.over_processes()
    means = meter.compute()
    if not means:
        raise InputError(
            f"no step of epoch {state.epoch + 1} was finite, so all were left out: lower `lr`, or stop at the first with "
            "`on_nonfinite=stop`, which says where that comes from"
        )
    validation = _validated(training, state, part, observer)
    if not math.isfinite(validation["nll"]):
        raise InputError(
            f"the loss is not finite on the validation images after epoch {state.epoch + 1} (nll {validation['nll']}): lower `lr`, or "
            "give `warmup_epochs` or `clip_norm`; the last checkpoint stays as it was"
        )
    state.epoch, state.within = state.epoch + 1, None
    row = {
        "epoch": state.epoch,
        "step": state.step,
        "lr": part.lr,
        **means,
        **({"skipped_steps": part.skipped} if training.skip_nonfinite else {}),
        "images_per_second": meter.images / part.seconds,
        **{f"val_{name}": value for name, value in validation.items()},
    }
    state.history.append(row)
    if validation["accuracy"] > state.best_accuracy:
        state.best_epoch, state.best_accuracy = state.epoch, validation["accuracy"]
        observer.best(state)
    asked, due = _agreed(training, state)
    if due or state.epoch == training.epochs:
        observer.save(state)
        training.cadence.restart(state)
    observer.epoch(row, state)
    if asked is not None:
        raise Stopped(asked, saved=True)


def _validated(training: Training, state: TrainingState, part: EpochPart, observer: Observer) -> dict[str, float]:
    """Return the metrics on the validation images; if it is to end meanwhile, save all as it was before."""
    generators = random_states()
    try:
        with training.stop.deferred(
            ranks.together()
        ):  # processes that add up what they find cannot leave it one by one
            return observer.validate()
    except (Stopped, KeyboardInterrupt) as stopped:
        restore_random_states(generators)
        with training.stop.deferred():
            state.within = part.state_dict()
            observer.save(state)
        if isinstance(stopped, Stopped):
            stopped.saved = True
        raise


def _broken(step: Sequence[_Done]) -> tuple[str, ...]:
    """Return the names of the losses that are not finite."""
    return tuple(dict.fromkeys(name for done in step for name, term in done.out.terms.items() if not term.isfinite()))


def _refusal(record: StepRecord, explanation: str) -> InputError:
    return InputError(
        f"the loss or its gradient is not finite in epoch {record.epoch + 1}, at step {record.step}: {explanation}"
    )
