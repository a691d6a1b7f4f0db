"""The runs that a distillation makes beside its own: the one that fits its teacher, and the one that trains its student without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from angularkd.config import DistillConfig, Recipe, TrainConfig
from angularkd.models import offers_weights
from angularkd.runs import RunFolder
from angularkd.training.meter import TrainingMeter
from angularkd.training.plan import Plan
from angularkd.training.progress import Reporter


def teacher_options(config: DistillConfig, folder: RunFolder) -> TrainConfig:
    """Return the options of the run that fits the teacher to the data.

    Its recipe is the student's, but for the optimiser and its rates, which are those of `teacher_train_*` or suit what is fitted.
    """
    assert config.teacher_train is not None
    fitting = {
        "model": config.teacher,
        "weights": config.teacher_weights,
        "pretrained": config.teacher_weights is None and offers_weights(config.teacher),
        "train_only_head": config.teacher_train_what == "head",
        "normalization": config.teacher_normalization,
        "input_size": config.teacher_input_size,
        "optimizer": config.teacher_train_optimizer,
        "lr": config.teacher_train_lr,
        "weight_decay": config.teacher_train_weight_decay,
        "epochs": config.teacher_train,
        "warmup_epochs": config.warmup_epochs * config.teacher_train / config.epochs,
    }
    return TrainConfig.from_options(**{**_recipe(config, folder), **fitting})


def baseline_options(config: DistillConfig, folder: RunFolder) -> TrainConfig:
    """Return the options of the run that trains the student without its teacher, by the same recipe and seed, on the same images."""
    student = {
        "model": config.student,
        "weights": config.student_weights,
        "pretrained": config.student_pretrained,
        "normalization": config.student_normalization,
        "input_size": config.student_input_size,
    }
    return TrainConfig.from_options(**{**_recipe(config, folder), **student})


def _recipe(config: DistillConfig, folder: RunFolder) -> dict[str, Any]:
    shared = {name: getattr(config, name) for name in Recipe.model_fields}
    own = {"new_head": True, "trust": config.trust, "out": str(folder.path), "resume": folder.started}
    return {**shared, **own}


class Beside:
    """A reporter of a run beside: it passes everything on but the results, of which it logs the accuracy alone.

    Args:
        reporter: to whom.
        what: the run, in a few words.
        opening_notes: whether the notes that come before its training are passed on; those of the same student on the same images
            were logged before.
    """

    def __init__(self, reporter: Reporter, what: str, opening_notes: bool = True) -> None:
        self._reporter = reporter
        self._what = what
        self._notes = opening_notes

    def log(self, text: str) -> None:
        """Pass a line on."""
        if self._notes or not text.startswith("note: "):
            self._reporter.log(text)

    def plan(self, plan: Plan) -> None:
        """Pass on what will be done."""
        self._reporter.plan(plan)

    def begin(self, epochs: int, steps_an_epoch: int, first_epoch: int) -> None:
        """Pass on that training begins."""
        self._notes = True
        self._reporter.begin(epochs, steps_an_epoch, first_epoch)

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Pass on that a step is done."""
        self._reporter.step(epoch, step, meter)

    def epoch(self, row: dict[str, Any]) -> None:
        """Pass on that an epoch is done."""
        self._reporter.epoch(row)

    def end(self) -> None:
        """Pass on that training ends."""
        self._reporter.end()

    def results(self, folder: Path, data: str, results: dict[str, Any]) -> None:
        """Log the accuracy on the test images."""
        accuracy = results["metrics"].get("last epoch", {}).get("accuracy")
        found = f": test accuracy {accuracy:.2%}" if accuracy is not None else ""
        self._reporter.log(f"{self._what} is done{found} (run folder: {folder})")
