"""The training loop, the only one: training, fine-tuning and distilling differ in what the distiller computes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from lightning_fabric import Fabric
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from angularkd.data.loaders.resident import Batches
from angularkd.distillation.distiller import Distiller
from angularkd.errors import InputError
from angularkd.metrics.classification import TrainingMeter
from angularkd.training.checkpoint import TrainingState
from angularkd.training.ema import AveragedStudent

CHECK_EVERY = 50
"""Steps between two looks at the loss: looking waits for the device."""


class Reporter(Protocol):
    """Somebody who watches a run."""

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """After each optimiser step; `step` counts from 1 within the epoch."""

    def epoch(self, row: dict[str, Any]) -> None:
        """After each epoch, with its row of metrics.jsonl."""


def fit(
    fabric: Fabric,
    distiller: Distiller,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Batches,
    *,
    epochs: int,
    clip_norm: float | None,
    state: TrainingState,
    validate: Callable[[], dict[str, float]],
    save_best: Callable[[], None],
    save: Callable[[TrainingState], None],
    reporter: Reporter,
    average: AveragedStudent | None = None,
) -> TrainingState:
    """Train from where `state` stands until `epochs` are done; `state` is updated in place and returned.

    After every epoch: validate, keep the best student by validation accuracy, save. Raises InputError when the loss is not
    finite any more; the last checkpoint, of a finite loss, stays as it is.
    """
    while state.epoch < epochs:
        started = time.perf_counter()
        meter = TrainingMeter()
        distiller.train()
        for step, batch in enumerate(batches.epoch(state.epoch), start=1):
            distiller.set_epoch(state.epoch + (step - 1) / len(batches), epochs)
            out = distiller(batch.images, batch.labels, batch.indices, batch.view)
            fabric.backward(out.total)
            if clip_norm is not None:
                fabric.clip_gradients(distiller, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
            optimizer.step()
            if average is not None:
                average.update()
            scheduler.step()
            optimizer.zero_grad()
            state.step += 1
            meter.update(out, batch.labels)
            if step % CHECK_EVERY == 0:
                _check_finite(meter.compute(), state)
            reporter.step(state.epoch, step, meter)
        means = meter.compute()
        _check_finite(means, state)
        seconds = time.perf_counter() - started

        validation = validate()
        _check_finite({"loss": validation["nll"], "nll on the validation images": validation["nll"]}, state)
        state.epoch += 1
        row = {
            "epoch": state.epoch,
            "step": state.step,
            "lr": scheduler.get_last_lr()[0],
            **means,
            "images_per_second": meter.images / seconds,
            **{f"val_{name}": value for name, value in validation.items()},
        }
        state.history.append(row)
        if validation["accuracy"] > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, validation["accuracy"]
            save_best()
        save(state)
        reporter.epoch(row)
    return state


def _check_finite(means: dict[str, float], state: TrainingState) -> None:
    if math.isfinite(means["loss"]):
        return
    broken = [name for name, value in means.items() if not math.isfinite(value) and name != "loss"]
    kept = (
        f"the checkpoint of epoch {state.epoch} is kept"
        if state.epoch
        else "no epoch was finished, so start anew with another --out"
    )
    raise InputError(
        f"the loss is not finite any more in epoch {state.epoch + 1}, by step {state.step} "
        f"(terms: {', '.join(broken) or 'their sum'}); {kept}: lower --lr or the weight of that term, or add --warmup-epochs or --clip-norm"
    )
