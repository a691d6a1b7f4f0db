"""One run, from its configuration to its finished folder: what the commands, and whoever builds on them, call."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from angularkd.config import DistillConfig, Recipe, TrainConfig, format_losses, stored_weights, with_weights
from angularkd.data import DataSet
from angularkd.distillation import check_folder
from angularkd.errors import InputError
from angularkd.metrics import evaluate
from angularkd.models import Traces, fingerprint, offers_weights, save_weights
from angularkd.runs import Run, RunFolder, check_identity, identity_of
from angularkd.system.modes import seeded
from angularkd.training.build import build_distillation, build_training
from angularkd.training.build_data import open_dataset
from angularkd.training.chance import Score
from angularkd.training.checkpoint import Checkpointer, TrainingState
from angularkd.training.compilation import compile_step
from angularkd.training.fingerprints import run_fingerprints
from angularkd.training.job import Job
from angularkd.training.loop import Training, fit
from angularkd.training.meter import TrainingMeter
from angularkd.training.modules import Modules, as_started
from angularkd.training.plan import Plan, make_plan
from angularkd.training.progress import Reporter, Silent
from angularkd.training.results import final_results, save_best, student_metadata, weights_of

C = TypeVar("C", bound=Recipe)

LONGEST_SHORT_BYTES = 70
CHANCE_AFTER = 0.1
"""Share of a run after which a student that is still at chance is reported."""


def run_training(config: TrainConfig, reporter: Reporter | None = None, modules: Modules = MappingProxyType({})) -> Run:
    """Train a classifier.

    Args:
        config: what to train, and how.
        reporter: to whom the run reports; None for nobody.
        modules: networks that were passed as they are, by role; what is trained is trained in place.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    dataset = open_dataset(config)  # before the run's folder is made, which may lie in that of the images
    with _claimed(config, _short(config.model)) as folder:
        config = _going_on(config, folder, "model")
        with seeded(config.seed):
            return run(build_training(config, dataset, modules=modules), folder, reporter or Silent())


def run_distillation(
    config: DistillConfig, reporter: Reporter | None = None, modules: Modules = MappingProxyType({})
) -> Run:
    """Distil a teacher into a student, after fitting the teacher to the data where `teacher_train` asks for that.

    Arguments, result and errors are those of `run_training`.
    """
    reporter = reporter or Silent()
    if config.cache is not None:
        check_folder(Path(config.cache))
    dataset = open_dataset(config)
    trained = ("student", "teacher") if config.teacher_train is not None else ("student",)
    with _claimed(config, f"{_short(config.student)}-from-{_short(config.teacher)}") as folder:
        config = _going_on(_with_stored_weights(config, folder), folder, *trained)
        traces, fitted = Traces(), None
        if config.teacher_train is not None:
            fitted = _fit_teacher(config, dataset, traces, folder.teacher, reporter, modules)
            config = _with_teachers_recipe(config, folder.teacher)
        with seeded(config.seed):
            return run(build_distillation(config, dataset, traces, fitted, modules), folder, reporter)


def plan_distillation(config: DistillConfig, modules: Modules = MappingProxyType({})) -> Plan:
    """Return what `run_distillation` would pair, check and spend; nothing is written."""
    dataset = open_dataset(config)
    with seeded(config.seed):
        job = build_distillation(config, dataset, modules=modules)
        plan = make_plan(job, config.epochs)
    job.distiller.close()
    return plan


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
    resumed = config.resume and bool(folder.checkpoints)
    if config.resume and not resumed and folder.started:
        check_identity(folder.path, _stored_identity(type(config), folder), _identity(config))

    plan = make_plan(job, config.epochs) if job.teacher is not None and not resumed else None
    state = checkpointer.load(reporter.log) if resumed else TrainingState()
    if resumed:
        save_best(job, folder, state)
    if job.cached is not None:
        job.cached.cache.reserve()
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
    seconds_before = state.seconds
    reporter.begin(config.epochs, len(job.batches), state.epoch)
    try:
        fit(training, state, _Observer(job, folder, checkpointer, reporter, started - seconds_before))
    finally:
        reporter.end()
        if job.cached is not None:
            job.cached.cache.close()

    save_weights(folder.student, job.result.module, student_metadata(job))
    results = final_results(job, state)
    results["seconds"] = seconds_before + time.perf_counter() - started
    results["compiled"] = compiled
    if job.teacher is not None:
        results["teacher_fingerprint"] = fingerprint(job.teacher.module)
    job.distiller.close()
    folder.write_results(results)
    reporter.results(folder.path, job.data.dataset.name, results)
    if teacher_before is not None and results["teacher_fingerprint"] != teacher_before:
        raise InputError(
            f"the teacher changed during the run, whose results in {folder.path} are therefore not of one teacher: let its forward change "
            "no buffer in evaluation mode"
        )
    return Run(folder.path, results)


@dataclass(frozen=True)
class _Observer:
    """What a run does beside the loop's steps: validate, save, report."""

    job: Job
    folder: RunFolder
    checkpointer: Checkpointer
    reporter: Reporter
    started: float
    """When the run would have been started, had it had one part."""

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Report the step."""
        self.reporter.step(epoch, step, meter)

    def validate(self) -> dict[str, float]:
        """Return the metrics on the validation images."""
        job = self.job
        return evaluate(job.result.module, job.predict, job.validation.epoch(0), len(job.data.dataset.classes))

    def best(self) -> None:
        """Save the student's weights as the best."""
        save_weights(self.folder.best, self.job.result.module, student_metadata(self.job))

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        """Save everything, and report the epoch."""
        if state.best_epoch == state.epoch:
            state.best_weights = weights_of(self.job.result.module)
        state.seconds = time.perf_counter() - self.started
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
        if self.job.teacher is None or not Score(round(row["val_accuracy"] * images), images, 1 / classes).at_chance:
            return
        largest = max(self.job.distiller.losses.weights, key=lambda name: row[name])
        self.reporter.log(
            f"note: after {row['epoch']} epochs the student is still at chance ({row['val_accuracy']:.1%}), and {largest} is "
            f"{row[largest] / row['loss']:.0%} of its loss: give it a smaller weight, or {largest}=auto"
        )


def _fit_teacher(
    config: DistillConfig, dataset: DataSet, traces: Traces, folder: RunFolder, reporter: Reporter, modules: Modules
) -> str:
    """Fit the teacher to the data in a run of its own, or go on with it; return that run's folder.

    Its recipe is the student's, but for the optimiser and its rates, which are those of `teacher_train_*` or suit what is fitted.
    """
    assert config.teacher_train is not None
    if not folder.student.exists():
        with seeded(config.seed):  # what cannot be distilled afterwards is not worth fitting a teacher for
            build_distillation(config, dataset, traces, modules=modules).distiller.close()
    recipe = {name: getattr(config, name) for name in Recipe.model_fields}
    fitting = {
        "model": config.teacher,
        "weights": config.teacher_weights,
        "pretrained": config.teacher_weights is None and offers_weights(config.teacher),
        "new_head": True,
        "train_only_head": config.teacher_train_what == "head",
        "normalization": config.teacher_normalization,
        "input_size": config.teacher_input_size,
        "trust": config.trust,
        "optimizer": config.teacher_train_optimizer,
        "lr": config.teacher_train_lr,
        "weight_decay": config.teacher_train_weight_decay,
        "epochs": config.teacher_train,
        "warmup_epochs": config.warmup_epochs * config.teacher_train / config.epochs,
        "out": str(folder.path),
        "resume": folder.started,
    }
    reporter.log(f"the teacher is fitted first, in {folder.path}")
    teacher_config = _going_on(TrainConfig.from_options(**{**recipe, **fitting}), folder, "model")
    fitted = {"model": modules["teacher"]} if "teacher" in modules else {}
    with folder.claimed(teacher_config.resume), seeded(config.seed):
        job = build_training(teacher_config, dataset, traces, fitted)
        return str(run(job, folder, reporter, more_follows=True).folder)


def _checkpointer(job: Job, folder: RunFolder) -> Checkpointer:
    return Checkpointer(
        folder.checkpoint,
        folder.previous,
        job.distiller,
        job.optimizer,
        job.scheduler,
        job.fabric.strategy.precision,
        _identity(job.config),
        run_fingerprints(job),
        job.average,
    )


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


def _going_on(config: C, folder: RunFolder, *trained: str) -> C:
    """Return the configuration with the names that the run which is resumed has for modules that are trained."""
    return as_started(config, folder.read_config(), trained) if config.resume else config


def _with_teachers_recipe(config: DistillConfig, folder: RunFolder) -> DistillConfig:
    """Return the configuration with the optimiser and rates by which the teacher was fitted, so that it repeats the run."""
    options = folder.read_config() or {}
    names = ("optimizer", "lr", "weight_decay")
    return config.model_copy(update={f"teacher_train_{name}": options[name] for name in names if name in options})


def _stored_identity(kind: type[Recipe], folder: RunFolder) -> dict[str, Any] | None:
    """Return the identity of the run that was started in a folder, None where its configuration is of another command."""
    options = folder.read_config()
    try:
        return _identity(kind.from_options(**options)) if options is not None else None
    except (InputError, TypeError):
        return None


@contextmanager
def _claimed(config: Recipe, name: str) -> Iterator[RunFolder]:
    """Hold the run's folder."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "1"):
        raise InputError(
            f"a run is of one process, and the environment says that this is one of {processes} (WORLD_SIZE): start angularkd without "
            "torchrun"
        )
    default = Path("runs") / f"{name}-on-{_short(config.data)}-seed{config.seed}"
    with RunFolder(Path(config.out) if config.out is not None else default).claimed(config.resume) as folder:
        yield folder


def _short(spec: str) -> str:
    """Return a SPEC as part of a folder's name, short enough that three of them are one."""
    name = spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return name.encode(errors="surrogateescape")[:LONGEST_SHORT_BYTES].decode(errors="ignore")
