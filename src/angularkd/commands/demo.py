"""The whole story on the embedded digits, offline: teacher, student from scratch, KD student, AMD student, one table."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.config import DEFAULT_LOSSES, KD_LOSSES, DemoConfig, DistillConfig, TrainConfig
from angularkd.errors import InputError
from angularkd.metrics import format_metric
from angularkd.runs import Run
from angularkd.studies import Sample
from angularkd.system.files import check_writable, write_json
from angularkd.training import duration, run_distillation, run_training

TEACHER = "cifar/wrn_16_2"
RECIPE: dict[str, Any] = {
    "data": "digits",
    "image_size": 8,
    "batch_size": 64,
    "schedule": "onecycle",
    "lr": 0.05,
    "val_fraction": 0.45,
    "device": "cpu",
    "precision": "32-true",
}
"""Few images, half of them set aside: enough that a student from scratch has something left to learn."""
TEACHER_EPOCHS, STUDENT_EPOCHS = 12, 6
"""A teacher that was trained with patience, and students that have little time: what distillation is for."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "KD": KD_LOSSES,
    "KD + AMD": DEFAULT_LOSSES,
}
"""Hinton's distillation, and the default objective of `distill`."""
METRICS = ("accuracy", "nll")
SCRATCH = "student from scratch"


def run_demo(config: DemoConfig, console: Console) -> dict[str, Any]:
    """Run the demo, print its table, and return its summary, which is also written to summary.json in its folder."""
    started = time.perf_counter()
    folder = Path(config.out) if config.out is not None else _free_folder()
    check_writable(folder, "out")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"the folder {folder} exists and is not empty: give another with `out`")
    runs: dict[str, list[Run]] = {}
    console.print(
        f"{TEACHER} teaches {config.student} on 8x8 digits, {config.seeds} seeds of each student, everything on this machine",
        highlight=False,
    )
    teacher = TrainConfig(model=TEACHER, out=str(folder / "teacher"), epochs=TEACHER_EPOCHS, seed=0, **RECIPE)
    runs["teacher"] = [_print_run("teacher", run_training(teacher), console)]
    for seed in range(config.seeds):
        common = {**RECIPE, "epochs": STUDENT_EPOCHS, "seed": seed}
        out = str(folder / f"scratch-seed{seed}")
        runs.setdefault(SCRATCH, []).append(
            _print_run(
                f"seed {seed}, {SCRATCH}", run_training(TrainConfig(model=config.student, out=out, **common)), console
            )
        )
        for name, losses in OBJECTIVES.items():
            student = DistillConfig.from_options(
                teacher=teacher.out,
                student=config.student,
                loss=losses,
                out=str(folder / f"{name.lower().replace(' + ', '-')}-seed{seed}"),
                **common,
            )
            runs.setdefault(f"student, {name}", []).append(
                _print_run(f"seed {seed}, student, {name}", run_distillation(student), console)
            )
    summary = {
        "seeds": config.seeds,
        "seconds": time.perf_counter() - started,
        "rows": {name: _summarise(rows) for name, rows in runs.items()},
    }
    write_json(folder / "summary.json", summary)
    _print(summary, folder, console)
    return summary


def _print_run(name: str, run: Run, console: Console) -> Run:
    accuracy = run.results["metrics"]["last epoch"]["accuracy"]
    console.print(f"{name:<30} test accuracy {accuracy:.2%}  ({run.results['seconds']:.1f} s)", highlight=False)
    return run


def _summarise(runs: list[Run]) -> dict[str, Any]:
    """Return mean and sample standard deviation over the seeds, of the last epoch's student on the test split."""
    row: dict[str, Any] = {"parameters": runs[0].results["parameters"]}
    for name in METRICS:
        values = [run.results["metrics"]["last epoch"][name] for run in runs]
        sample = Sample(tuple(values))
        row[name] = {"mean": sample.mean, "std": sample.std, "values": values}
    return row


def _print(summary: dict[str, Any], folder: Path, console: Console) -> None:
    title = f"digits, test split, mean ± standard deviation over {summary['seeds']} seeds of a student"
    rows = [
        (name, f"{row['parameters']:,}", *(_with_spread(metric, row[metric]) for metric in METRICS))
        for name, row in summary["rows"].items()
    ]
    print_table(console, ("", "parameters", *METRICS), rows, title=title)
    console.print(f"run folders: {folder}/    took {duration(summary['seconds'])}", soft_wrap=True, highlight=False)


def _with_spread(metric: str, figures: dict[str, Any]) -> str:
    mean = format_metric(metric, figures["mean"])
    return mean if figures["std"] is None else f"{mean} ± {format_metric(metric, figures['std'])}"


def _free_folder() -> Path:
    names = itertools.chain(["demo"], (f"demo-{number}" for number in itertools.count(2)))
    return next(folder for folder in (Path("runs") / name for name in names) if not folder.exists())
