"""The commands as functions: train, distill, plan, evaluate. Each takes the flags of its command as keyword arguments."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from angularkd.commands.tables import show_metrics, show_plan
from angularkd.config.commands import DistillConfig, EvaluateConfig, Recipe, TrainConfig
from angularkd.errors import InputError
from angularkd.metrics.evaluate import evaluate as measure
from angularkd.models.opening import STUDENT_FILE, offers_weights
from angularkd.models.weights import fingerprint, save_weights
from angularkd.system.files import check_file_writable, check_writable, write_json, write_json_lines, write_text
from angularkd.training.build import (
    Job,
    build_distillation,
    build_evaluation,
    build_training,
    images_at_once,
    predictor,
)
from angularkd.training.checkpoint import Checkpointer, TrainingState
from angularkd.training.compilation import compile_step
from angularkd.training.loop import fit
from angularkd.training.plan import Plan
from angularkd.training.preflight import make_plan
from angularkd.training.progress import Progressor

LAST = "checkpoints/last.ckpt"
BEST = "checkpoints/best.safetensors"
TEACHER = "teacher"
"""Where in a run's folder the run lies that fitted its teacher to the data."""
MAY_DIFFER = ("out", "resume", "device", "workers", "compile")
"""Options in which a run and its resumption may differ."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its results.json holds."""

    folder: Path
    results: dict[str, Any]


def train(**options: Any) -> Run:
    """Train or fine-tune a classifier. Options: the fields of `angularkd.config.commands.TrainConfig`."""
    return run_training(TrainConfig.from_options(**options))


def distill(**options: Any) -> Run:
    """Distil a teacher into a student. Options: the fields of `angularkd.config.commands.DistillConfig`."""
    return run_distillation(DistillConfig.from_options(**options))


def plan(**options: Any) -> Plan:
    """What `distill` with the same options would pair, check and spend; nothing is written."""
    return run_plan(DistillConfig.from_options(**options))


def evaluate(**options: Any) -> dict[str, Any]:
    """Measure a model, alone or beside its teacher. Options: the fields of `angularkd.config.commands.EvaluateConfig`."""
    return run_evaluation(EvaluateConfig.from_options(**options))


def run_training(config: TrainConfig, console: Console | None = None) -> Run:
    """`train` with a checked configuration; what happens is told to the console."""
    folder = _folder_of(config, _default_folder(config.model, config))
    return _run(folder, build_training(config), console or Console(quiet=True))


def run_distillation(config: DistillConfig, console: Console | None = None) -> Run:
    """`distill` with a checked configuration; what happens is told to the console."""
    name = f"{_short(config.student)}-from-{_short(config.teacher)}"
    if config.cache is not None:
        check_writable(Path(config.cache), "--cache")
    folder = _folder_of(config, _default_folder(name, config))
    console = console or Console(quiet=True)
    fitted = _fit_teacher(config, folder / TEACHER, console) if config.teacher_train is not None else None
    return _run(folder, build_distillation(config, fitted), console)


def run_plan(config: DistillConfig, console: Console | None = None) -> Plan:
    """`plan` with a checked configuration, shown on the console."""
    found = make_plan(build_distillation(config), config.epochs)
    show_plan(found, console or Console(quiet=True))
    return found


def run_evaluation(config: EvaluateConfig, console: Console | None = None) -> dict[str, Any]:
    """`evaluate` with a checked configuration, shown on the console."""
    if config.json_file is not None:
        check_file_writable(Path(config.json_file), "--json-file")
    fabric, data, model, teacher = build_evaluation(config)
    at_once = images_at_once(fabric, data, config.split, config.batch_size, model, teacher)
    batches = data.batches(config.split, at_once)
    predict_teacher = predictor(fabric, teacher) if teacher is not None else None
    classes = len(data.dataset.classes)
    started = time.perf_counter()
    found = {config.model: measure(model.module, predictor(fabric, model), batches.epoch(0), classes, predict_teacher)}
    seconds = time.perf_counter() - started
    if teacher is not None and config.teacher is not None and predict_teacher is not None:
        found[f"{config.teacher} (teacher)"] = measure(teacher.module, predict_teacher, batches.epoch(0), classes)
    images = len(getattr(data.dataset, config.split))
    results = {
        "data": config.data,
        "split": config.split,
        "images": images,
        "parameters": model.parameters,
        "preprocessing": str(model.preprocessing),
        "images_per_second": images / seconds,
        "metrics": found,
    }
    if config.json_file is not None:
        write_json(Path(config.json_file), results)
    show_metrics(results, console or Console(quiet=True))
    return results


def _fit_teacher(config: DistillConfig, folder: Path, console: Console) -> str:
    """Fit the teacher to the data in a run of its own, by the same recipe, or go on with it; that run's folder."""
    assert config.teacher_train is not None
    if not (folder / STUDENT_FILE).exists():
        build_distillation(config)  # what cannot be distilled afterwards is not worth fitting a teacher for
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
        "out": str(folder),
        "resume": (folder / "config.yaml").exists(),
    }
    console.print(f"the teacher is fitted first, in {folder}", soft_wrap=True)
    return str(run_training(TrainConfig.from_options(**{**recipe, **fitting}), console).folder)


def _run(folder: Path, job: Job, console: Console) -> Run:
    """Train a built job and leave the files of a run."""
    config = job.config
    started = time.perf_counter()
    checkpointer = Checkpointer(
        folder / LAST,
        job.distiller,
        job.optimizer,
        job.scheduler,
        job.fabric.strategy.precision,
        _identity(config),
        job.average,
    )
    resumed = config.resume and checkpointer.path.exists()
    if config.resume and not resumed and (folder / "config.yaml").exists():
        _check_same_run(config, folder)
    made = make_plan(job, config.epochs) if job.teacher is not None and not resumed else None
    state = checkpointer.load() if resumed else TrainingState()
    folder.mkdir(parents=True, exist_ok=True)
    if made is None:
        for note in job.notes:
            console.print(f"note: {note}", soft_wrap=True)
    if not resumed:
        write_text(folder / "config.yaml", config.dump())
    if made is not None:
        write_json(folder / "plan.json", made.as_dict())
        show_plan(made, console)
    compiled = compile_step(job, lambda line: console.print(line, soft_wrap=True, highlight=False))
    teacher_before = fingerprint(job.teacher.module) if job.teacher is not None else None
    distiller, optimizer = job.fabric.setup(job.distiller, job.optimizer, move_to_device=False)
    classes = len(job.data.dataset.classes)

    def save(state: TrainingState) -> None:
        write_json_lines(folder / "metrics.jsonl", state.history)
        checkpointer.save(state)
        if job.cache is not None:
            job.cache.flush()

    with Progressor(console, config.epochs, len(job.batches), state.epoch) as progressor:
        fit(
            job.fabric,
            distiller,
            optimizer,
            job.scheduler,
            job.batches,
            epochs=config.epochs,
            clip_norm=config.clip_norm,
            state=state,
            validate=lambda: measure(job.kept.module, job.predict, job.validation.epoch(0), classes),
            save_best=lambda: save_weights(folder / BEST, job.kept.module, _metadata(job)),
            save=save,
            reporter=progressor,
            average=job.average,
        )
    save_weights(folder / STUDENT_FILE, job.kept.module, _metadata(job))
    results = _final_results(folder, job, state, classes)
    results["seconds"] = time.perf_counter() - started
    results["compiled"] = compiled
    if job.teacher is not None:
        results["teacher_fingerprint"] = fingerprint(job.teacher.module)
        if results["teacher_fingerprint"] != teacher_before:
            raise RuntimeError("the teacher changed during the run: a fault of angularkd or of the model's forward")
    write_json(folder / "results.json", results)
    show_metrics({"split": "test", "data": job.data.dataset.name, **results}, console)
    console.print(f"run folder: {folder}", soft_wrap=True)
    return Run(folder, results)


def _final_results(folder: Path, job: Job, state: TrainingState, classes: int) -> dict[str, Any]:
    """The one look at the test split: the last epoch's student, the validation-selected one, and the teacher."""
    batches = job.test
    same_classes = job.teacher is not None and job.teacher.outputs == classes
    predict_teacher = job.predict_teacher if same_classes else None
    kept = job.kept.module
    last = {name: value.clone() for name, value in kept.state_dict().items()}
    metrics = {"last epoch": measure(kept, job.predict, batches.epoch(0), classes, predict_teacher)}
    kept.load_state_dict(load_file(folder / BEST))
    metrics["selected epoch"] = measure(kept, job.predict, batches.epoch(0), classes, predict_teacher)
    kept.load_state_dict(last)
    if job.teacher is not None and same_classes:
        metrics["teacher"] = measure(job.teacher.module, job.predict_teacher, batches.epoch(0), classes)
    return {
        "metrics": metrics,
        "images": len(job.data.dataset.test),
        "epochs": state.epoch,
        "selected_epoch": state.best_epoch,
        "selected_validation_accuracy": state.best_accuracy,
        "parameters": job.student.parameters,
        "left_out": list(job.data.dataset.left_out),
    }


def _check_same_run(config: Recipe, folder: Path) -> None:
    """Raises InputError unless the folder's run, which left no checkpoint, was asked for with the same options."""
    try:
        stored = type(config).from_options(**yaml.safe_load((folder / "config.yaml").read_text()))
    except (InputError, TypeError, yaml.YAMLError):
        stored = None
    if stored is None or _identity(stored) != _identity(config):
        raise InputError(
            f"the run in {folder} was started with other options: resume with the same, or give another --out"
        )


def _metadata(job: Job) -> dict[str, Any]:
    """What a student's file says of itself: enough to use it without this run's configuration."""
    assert job.student.preprocessing is not None
    return {
        "model": job.student.architecture or job.student.spec,
        "classes": list(job.data.dataset.classes),
        "image_size": list(job.batches.views.image_size),
        "mean": list(job.student.preprocessing.mean),
        "std": list(job.student.preprocessing.std),
        "input_size": job.student.preprocessing.size,
        "torch": torch.__version__,
    }


def _identity(config: Recipe) -> dict[str, Any]:
    options = {key: value for key, value in config.model_dump(mode="json").items() if key not in MAY_DIFFER}
    return {
        "command": type(config).__name__,
        **options,
        **({"loss": config.losses} if isinstance(config, DistillConfig) else {}),
    }


def _folder_of(config: Recipe, default: Path) -> Path:
    """The run's folder. Raises InputError when it holds a run and this is not its resumption, or the other way round."""
    folder = Path(config.out) if config.out is not None else default
    check_writable(folder, "--out")
    if folder.is_dir() and any(folder.iterdir()) and not config.resume:
        raise InputError(
            f"the folder {folder} exists and is not empty: give another with --out, or go on with --resume"
        )
    if config.resume and not any((folder / part).exists() for part in (LAST, "config.yaml", f"{TEACHER}/config.yaml")):
        raise InputError(f"there is no run to resume in {folder}: leave out --resume, or name its folder with --out")
    return folder


def _default_folder(name: str, config: Recipe) -> Path:
    return Path("runs") / f"{_short(name)}-on-{_short(config.data)}-seed{config.seed}"


def _short(spec: str) -> str:
    """A SPEC as part of a folder's name."""
    return spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]
