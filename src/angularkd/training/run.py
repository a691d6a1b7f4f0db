"""One run, from its configuration to its finished folder: what the commands, and whoever builds on them, call."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from angularkd.config import DistillConfig, Recipe, TrainConfig, format_losses, stored_weights, with_weights
from angularkd.data import DataSet
from angularkd.errors import InputError
from angularkd.metrics import evaluate
from angularkd.models import fingerprint, offers_weights, save_weights
from angularkd.runs import Run, RunFolder, StudentMetadata, check_identity, identity_of
from angularkd.system.files import check_writable
from angularkd.system.modes import seeded
from angularkd.training.build import build_distillation, build_training
from angularkd.training.build_data import open_dataset
from angularkd.training.checkpoint import Checkpointer, TrainingState
from angularkd.training.compilation import compile_step
from angularkd.training.job import Job
from angularkd.training.loop import Training, fit
from angularkd.training.meter import TrainingMeter
from angularkd.training.plan import Plan, above_chance, make_plan
from angularkd.training.progress import Reporter, Silent

CHANCE_AFTER = 0.1
"""Share of a run after which a student that is still at chance is reported."""


def run_training(config: TrainConfig, reporter: Reporter | None = None) -> Run:
    """Train a classifier.

    Args:
        config: what to train, and how.
        reporter: to whom the run reports; None for nobody.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    folder = _claim(config, _short(config.model))
    dataset = open_dataset(config)
    with seeded(config.seed):
        return run(build_training(config, dataset), folder, reporter or Silent())


def run_distillation(config: DistillConfig, reporter: Reporter | None = None) -> Run:
    """Distil a teacher into a student, after fitting the teacher to the data where `teacher_train` asks for that.

    Arguments, result and errors are those of `run_training`.
    """
    reporter = reporter or Silent()
    if config.cache is not None:
        check_writable(Path(config.cache), "cache")
    folder = _claim(config, f"{_short(config.student)}-from-{_short(config.teacher)}")
    config = _with_stored_weights(config, folder)
    dataset = open_dataset(config)
    fitted = _fit_teacher(config, dataset, folder.teacher, reporter) if config.teacher_train is not None else None
    with seeded(config.seed):
        return run(build_distillation(config, dataset, fitted), folder, reporter)


def plan_distillation(config: DistillConfig) -> Plan:
    """Return what `run_distillation` would pair, check and spend; nothing is written."""
    dataset = open_dataset(config)
    with seeded(config.seed):
        return make_plan(build_distillation(config, dataset), config.epochs)


def run(job: Job, folder: RunFolder, reporter: Reporter, *, more_follows: bool = False) -> Run:
    """Train what was built, and leave the files of a run in its folder.

    Args:
        job: the parts of the run, built with its seed set.
        folder: claimed for it.
        reporter: to whom the run reports.
        more_follows: whether another run of this command will train on the images that are decoded.
    """
    config, started = job.config, time.perf_counter()
    checkpointer = _checkpointer(job, folder)
    resumed = config.resume and checkpointer.path.exists()
    if config.resume and not resumed and folder.started:
        check_identity(folder.path, _stored_identity(type(config), folder), _identity(config))

    plan = make_plan(job, config.epochs) if job.teacher is not None and not resumed else None
    state = checkpointer.load() if resumed else TrainingState()
    if not resumed:
        folder.write_config(config.dump())
    if plan is not None:
        folder.write_plan(plan.as_dict())
        reporter.plan(plan)
    else:
        for note in job.notes:
            reporter.log(f"note: {note}")

    if not more_follows:
        job.data.release()
    compiled = compile_step(job, reporter.log)
    teacher_before = fingerprint(job.teacher.module) if job.teacher is not None else None
    distiller, optimizer = job.fabric.setup(job.distiller, job.optimizer, move_to_device=False)
    training = Training(
        job.fabric, distiller, optimizer, job.scheduler, job.batches, config.epochs, config.clip_norm, job.average
    )
    reporter.begin(config.epochs, len(job.batches), state.epoch)
    try:
        fit(training, state, _Observer(job, folder, checkpointer, reporter))
    finally:
        reporter.end()

    save_weights(folder.student, job.result.module, _metadata(job))
    results = _final_results(folder, job, state)
    results["seconds"] = time.perf_counter() - started
    results["compiled"] = compiled
    if job.teacher is not None:
        results["teacher_fingerprint"] = fingerprint(job.teacher.module)
        if results["teacher_fingerprint"] != teacher_before:
            raise RuntimeError("the teacher changed during the run: a fault of angularkd or of the model's forward")
    folder.write_results(results)
    reporter.results(folder.path, job.data.dataset.name, results)
    return Run(folder.path, results)


@dataclass(frozen=True)
class _Observer:
    """What a run does beside the loop's steps: validate, save, report."""

    job: Job
    folder: RunFolder
    checkpointer: Checkpointer
    reporter: Reporter

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Report the step."""
        self.reporter.step(epoch, step, meter)

    def validate(self) -> dict[str, float]:
        """Return the metrics on the validation images."""
        job = self.job
        return evaluate(job.result.module, job.predict, job.validation.epoch(0), len(job.data.dataset.classes))

    def best(self) -> None:
        """Save the student's weights as the best."""
        save_weights(self.folder.best, self.job.result.module, _metadata(self.job))

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        """Save everything, and report the epoch."""
        self.folder.write_metrics(state.history)
        self.checkpointer.save(state)
        if self.job.cached is not None:
            self.job.cached.cache.flush()
        self.reporter.epoch(row)
        if row["epoch"] == math.ceil(CHANCE_AFTER * self.job.config.epochs):
            self._warn_of_chance(row)

    def _warn_of_chance(self, row: dict[str, Any]) -> None:
        """Log the largest term when the student has not learned anything yet, though its teacher has."""
        images, classes = len(self.job.data.dataset.val), len(self.job.data.dataset.classes)
        if self.job.teacher is None or above_chance(row["val_accuracy"], classes, images):
            return
        largest = max(self.job.distiller.losses.weights, key=lambda name: row[name])
        self.reporter.log(
            f"note: after {row['epoch']} epochs the student is still at chance ({row['val_accuracy']:.1%}), and {largest} is "
            f"{row[largest] / row['loss']:.0%} of its loss: give it a smaller weight, or {largest}=auto"
        )


def _fit_teacher(config: DistillConfig, dataset: DataSet, folder: RunFolder, reporter: Reporter) -> str:
    """Fit the teacher to the data in a run of its own, by the same recipe, or go on with it; return that run's folder."""
    assert config.teacher_train is not None
    if not folder.student.exists():
        with seeded(config.seed):
            build_distillation(
                config, dataset
            )  # what cannot be distilled afterwards is not worth fitting a teacher for
    recipe = {name: getattr(config, name) for name in Recipe.model_fields}
    fitting = {
        "model": config.teacher,
        "weights": config.teacher_weights,
        "pretrained": config.teacher_weights is None and offers_weights(config.teacher),
        "new_head": True,
        "train_only_head": config.teacher_train_what == "head",
        "normalization": config.teacher_normalization,
        "input_size": config.teacher_input_size,
        "epochs": config.teacher_train,
        "warmup_epochs": config.warmup_epochs * config.teacher_train / config.epochs,
        "out": str(folder.path),
        "resume": folder.started,
    }
    reporter.log(f"the teacher is fitted first, in {folder.path}")
    teacher_config = TrainConfig.from_options(**{**recipe, **fitting})
    folder.claim(teacher_config.resume)
    with seeded(config.seed):
        return str(run(build_training(teacher_config, dataset), folder, reporter, more_follows=True).folder)


def _checkpointer(job: Job, folder: RunFolder) -> Checkpointer:
    return Checkpointer(
        folder.checkpoint,
        job.distiller,
        job.optimizer,
        job.scheduler,
        job.fabric.strategy.precision,
        _identity(job.config),
        job.average,
    )


def _final_results(folder: RunFolder, job: Job, state: TrainingState) -> dict[str, Any]:
    """Evaluate on the test split, once: the last epoch's student, the validation-selected one, and the teacher."""
    classes = len(job.data.dataset.classes)
    same_classes = job.teacher is not None and job.teacher.outputs == classes
    predict_teacher = job.predict_teacher if same_classes else None
    module = job.result.module

    def measure() -> dict[str, float]:
        return evaluate(module, job.predict, job.test.epoch(0), classes, teacher=predict_teacher)

    last = {name: value.clone() for name, value in module.state_dict().items()}
    metrics = {"last epoch": measure()}
    module.load_state_dict(load_file(folder.best))
    metrics["selected epoch"] = measure()
    module.load_state_dict(last)
    if job.teacher is not None and same_classes:
        metrics["teacher"] = evaluate(job.teacher.module, job.predict_teacher, job.test.epoch(0), classes)
    return {
        "metrics": metrics,
        "images": len(job.data.dataset.test),
        "epochs": state.epoch,
        "selected_epoch": state.best_epoch,
        "selected_validation_accuracy": state.best_accuracy,
        "parameters": job.student.parameters,
        "left_out": list(job.data.dataset.left_out),
    }


def _metadata(job: Job) -> dict[str, Any]:
    preprocessing = job.student.preprocessing
    assert preprocessing is not None
    return StudentMetadata(
        model=job.student.architecture or job.student.spec,
        classes=list(job.data.dataset.classes),
        image_size=list(job.views.image_size),
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        input_size=preprocessing.size,
        torch=torch.__version__,
    ).as_dict()


def _identity(config: Recipe) -> dict[str, Any]:
    losses = {"loss": config.losses} if isinstance(config, DistillConfig) else {}
    return identity_of(type(config).__name__, {**config.model_dump(mode="json"), **losses})


def _with_stored_weights(config: DistillConfig, folder: RunFolder) -> DistillConfig:
    """Return the configuration with the weights that the run which is resumed has found for losses of `auto`."""
    stored = folder.read_config() if config.resume else None
    losses = stored.get("loss") if stored is not None else None
    if not isinstance(losses, dict):
        return config
    weights = stored_weights(config.losses, losses)
    return config.model_copy(update={"loss": format_losses(with_weights(config.losses, weights))})


def _stored_identity(kind: type[Recipe], folder: RunFolder) -> dict[str, Any] | None:
    """Return the identity of the run that was started in a folder, None where its configuration is of another command."""
    options = folder.read_config()
    try:
        return _identity(kind.from_options(**options)) if options is not None else None
    except (InputError, TypeError):
        return None


def _claim(config: Recipe, name: str) -> RunFolder:
    """Return the run's folder, claimed."""
    default = Path("runs") / f"{name}-on-{_short(config.data)}-seed{config.seed}"
    folder = RunFolder(Path(config.out) if config.out is not None else default)
    folder.claim(config.resume)
    return folder


def _short(spec: str) -> str:
    """Return a SPEC as part of a folder's name."""
    return spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]
