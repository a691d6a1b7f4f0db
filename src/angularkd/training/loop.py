"""The training loop, the only one: training, fine-tuning and distilling differ in what the distiller computes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

from lightning_fabric import Fabric
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from angularkd.data import Batches
from angularkd.distillation import Distiller
from angularkd.errors import InputError
from angularkd.training.checkpoint import TrainingState
from angularkd.training.ema import AveragedStudent
from angularkd.training.meter import TrainingMeter

CHECK_EVERY = 50
"""Steps between two readings of the loss: reading waits for the device."""


@dataclass(frozen=True)
class Training:
    """What the loop works with.

    Attributes:
        fabric: the device and the arithmetic.
        distiller, optimizer: set up by `fabric`.
        scheduler: of the learning rate, stepped after every optimiser step.
        batches: the training images.
        epochs: passes over them, in all.
        clip_norm: largest norm of the gradient; None for any.
        average: the moving average of the student's weights, where one is taken.
    """

    fabric: Fabric
    distiller: Distiller
    optimizer: Optimizer
    scheduler: LRScheduler
    batches: Batches
    epochs: int
    clip_norm: float | None = None
    average: AveragedStudent | None = None


class Observer(Protocol):
    """What the loop calls beside training."""

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Follow an optimiser step; `step` counts from 1 within the epoch."""
        ...

    def validate(self) -> dict[str, float]:
        """Return the metrics of the student on the validation images, `accuracy` and `nll` among them."""
        ...

    def best(self) -> None:
        """Save the student, which is the best by validation accuracy so far."""
        ...

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        """Save everything after an epoch, with its row of metrics.jsonl."""
        ...


def fit(training: Training, state: TrainingState, observer: Observer) -> None:
    """Train from where `state` stands until all epochs are done; `state` is updated in place.

    After every epoch: validate, save the best student by validation accuracy, save the state.

    Raises:
        InputError: when the loss is not finite any more; the last checkpoint, of a finite loss, stays as it is.
    """
    fabric, distiller, optimizer, batches = training.fabric, training.distiller, training.optimizer, training.batches
    while state.epoch < training.epochs:
        started = time.perf_counter()
        meter = TrainingMeter()
        distiller.train()
        for step, batch in enumerate(batches.epoch(state.epoch), start=1):
            distiller.set_epoch(state.epoch + (step - 1) / len(batches), training.epochs)
            out = distiller(batch.images, batch.labels, batch.indices, batch.view)
            fabric.backward(out.total)
            if training.clip_norm is not None:
                fabric.clip_gradients(distiller, optimizer, max_norm=training.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            if training.average is not None:
                training.average.update()
            lr = training.scheduler.get_last_lr()[0]
            training.scheduler.step()
            optimizer.zero_grad()
            state.step += 1
            meter.update(out, batch.labels)
            if step % CHECK_EVERY == 0:
                _check_finite(meter.compute(), state)
            observer.step(state.epoch, step, meter)
        means = meter.compute()
        _check_finite(means, state)
        seconds = time.perf_counter() - started

        validation = observer.validate()
        _check_finite({"loss": validation["nll"], "nll on the validation images": validation["nll"]}, state)
        state.epoch += 1
        row = {
            "epoch": state.epoch,
            "step": state.step,
            "lr": lr,
            **means,
            "images_per_second": meter.images / seconds,
            **{f"val_{name}": value for name, value in validation.items()},
        }
        state.history.append(row)
        if validation["accuracy"] > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, validation["accuracy"]
            observer.best()
        observer.epoch(row, state)


def _check_finite(means: dict[str, float], state: TrainingState) -> None:
    if math.isfinite(means["loss"]):
        return
    broken = [name for name, value in means.items() if not math.isfinite(value) and name != "loss"]
    checkpoint = (
        f"the checkpoint of epoch {state.epoch} is saved"
        if state.epoch
        else "no epoch was finished, so start anew with another `out`"
    )
    raise InputError(
        f"the loss is not finite any more in epoch {state.epoch + 1}, by step {state.step} "
        f"(terms: {', '.join(broken) or 'their sum'}); {checkpoint}: lower `lr` or the weight of that term, or give `warmup_epochs` or "
        "`clip_norm`"
    )
