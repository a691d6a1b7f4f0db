"""What a run does beside the loop's steps: it validates, saves and reports."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from angularkd.errors import InputError
from angularkd.models import save_weights
from angularkd.runs import RunFolder
from angularkd.system.ranks import once
from angularkd.training.chance import Score
from angularkd.training.checkpoint import Checkpointer
from angularkd.training.diagnosis import diagnose
from angularkd.training.job import Job
from angularkd.training.meter import TrainingMeter
from angularkd.training.nonfinite import StepRecord
from angularkd.training.progress import Reporter
from angularkd.training.replica import share_buffers
from angularkd.training.results import measured, student_metadata, weights_of
from angularkd.training.state import TrainingState

CHANCE_AFTER = 0.1
"""Share of a run after which a student that is still at chance is reported."""


@dataclass(frozen=True)
class RunObserver:
    """The observer of a run in a folder (`angularkd.training.loop.Observer`).

    Attributes:
        job: the run.
        folder: where its files go.
        checkpointer: writes its checkpoints.
        reporter: to whom it reports.
        started: when the run would have been started, had it had one part.
    """

    job: Job
    folder: RunFolder
    checkpointer: Checkpointer
    reporter: Reporter
    started: float

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Report the step."""
        self.reporter.step(epoch, step, meter)

    def validate(self) -> dict[str, float]:
        """Return the metrics on the validation images, of which each process evaluates a part."""
        job = self.job
        share_buffers(job.distiller, job.average)
        return measured(job, "val", job.result.module, job.predict)

    def best(self, state: TrainingState) -> None:
        """Save the student's weights as the best."""
        state.best_weights = weights_of(self.job.result.module)
        once(self._write_best)

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, and bring what the cache holds to the disk."""
        state.seconds = time.perf_counter() - self.started
        once(self.folder.check_held)
        share_buffers(self.job.distiller, self.job.average)
        self.checkpointer.save(state)
        if self.job.cached is not None:
            self.job.cached.cache.flush()

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        """Write the rows of all epochs, and report this one."""
        once(partial(self._write_rows, state))
        self.reporter.epoch(row)
        if row["epoch"] == math.ceil(CHANCE_AFTER * self.job.config.epochs):
            self._warn_of_chance(row)

    def nonfinite(self, record: StepRecord, state: TrainingState, *, final: bool) -> str:
        """Write down the step and the weights before it; where it is final, return where the first such number comes from."""
        job, folder, record = self.job, self.folder, record.over_processes()
        once(folder.check_held)
        self.checkpointer.at(folder.nonfinite_checkpoint).save(state)
        once(lambda: folder.write_nonfinite({"command": type(job.config).__name__, **record.as_dict()}))
        if not final:
            self.reporter.log(
                f"note: step {record.step} is not finite ({', '.join(record.terms) or 'its gradient'}) and is left out"
            )
            return ""
        found = once(partial(self._explanation, record))
        goes_on = "the last checkpoint stays as it was" if folder.checkpoints else "no checkpoint was written yet"
        return f"{found}; {goes_on}, and `angularkd replay {folder.path}` shows the whole batch"

    def _write_best(self) -> None:
        self.folder.check_held()
        save_weights(self.folder.best, self.job.result.module, student_metadata(self.job))

    def _write_rows(self, state: TrainingState) -> None:
        self.folder.check_held()
        self.folder.write_metrics(state.history)

    def _explanation(self, record: StepRecord) -> str:
        """Return where the first number that is not finite comes from in a step, of which the whole first batch is run again."""
        batch = next(self.job.batches.epoch(record.epoch, record.batch))
        try:
            return diagnose(self.job.distiller, batch, self.job.fabric.autocast()).explanation
        except InputError as error:  # a cache refuses such answers itself
            return str(error)

    def _warn_of_chance(self, row: dict[str, Any]) -> None:
        """Log the largest term when the student has not learned anything yet, though its teacher has."""
        images, classes = len(self.job.data.dataset.val), len(self.job.data.dataset.classes)
        if self.job.teacher is None or not Score(round(row["val_accuracy"] * images), images, 1 / classes).at_chance:
            return
        largest = max(self.job.distiller.losses.weights, key=lambda name: row[name])
        share, epochs = row[largest] / row["loss"], "epoch" if row["epoch"] == 1 else "epochs"
        remedy = (
            f"{largest} is {share:.0%} of its loss: give it a smaller weight, or a share of the gradient, {largest}=auto,share=0.5"
            if share > 0.5
            else "no loss is most of what it minimises: where that goes on, try another `lr`"
        )
        self.reporter.log(
            f"note: after {row['epoch']} {epochs} the student is still at chance ({row['val_accuracy']:.1%}), and {remedy}"
        )
