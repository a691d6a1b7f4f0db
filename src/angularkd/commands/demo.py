"""The whole story on the embedded digits, offline: teacher, student from scratch, KD student, AMD student, one table."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from angularkd.config import DemoConfig, DistillConfig, TrainConfig
from angularkd.errors import InputError
from angularkd.metrics import format_metric
from angularkd.runs import Run
from angularkd.system.files import check_writable, write_json
from angularkd.training import duration, run_distillation, run_training

TEACHER, STUDENT = "cifar/wrn_16_2", "cifar/resnet8"
RECIPE: dict[str, Any] = {
    "data": "digits",
    "image_size": 8,
    "batch_size": 64,
    "schedule": "onecycle",
    "epochs": 6,
    "lr": 0.05,
}
"""Short, for two cores. The weight of AMD below is small because the maps are: a mean over 8x8, 4x4 and 2x2 positions."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "KD": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}},
    "AMD": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 10.0},
}
METRICS = ("accuracy", "nll")


def run_demo(config: DemoConfig, console: Console) -> dict[str, Any]:
    """Run the demo, print its table, and return its summary, which is also written to summary.json in its folder."""
    started = time.perf_counter()
    folder = Path(config.out) if config.out is not None else _free_folder()
    check_writable(folder, "out")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"the folder {folder} exists and is not empty: give another with `out`")
    runs: dict[str, list[Run]] = {}
    console.print(
        f"{TEACHER} teaches {STUDENT} on 8x8 digits, {config.seeds} seeds, everything on this machine", highlight=False
    )
    for seed in range(config.seeds):
        common = {**RECIPE, "seed": seed}
        teacher = str(folder / f"teacher-seed{seed}")
        jobs: dict[str, TrainConfig | DistillConfig] = {
            "teacher": TrainConfig(model=TEACHER, out=teacher, **common),
            "student from scratch": TrainConfig(model=STUDENT, out=str(folder / f"scratch-seed{seed}"), **common),
        }
        for name, losses in OBJECTIVES.items():
            out = str(folder / f"{name.lower()}-seed{seed}")
            jobs[name] = DistillConfig.from_options(teacher=teacher, student=STUDENT, loss=losses, out=out, **common)
        for name, job in jobs.items():
            run = run_distillation(job) if isinstance(job, DistillConfig) else run_training(job)
            runs.setdefault(name, []).append(run)
            accuracy = run.results["metrics"]["last epoch"]["accuracy"]
            console.print(
                f"seed {seed}  {name:<21} test accuracy {accuracy:.2%}  ({run.results['seconds']:.1f} s)",
                highlight=False,
            )
    summary = {
        "seeds": config.seeds,
        "seconds": time.perf_counter() - started,
        "rows": {name: _summarise(rows) for name, rows in runs.items()},
    }
    write_json(folder / "summary.json", summary)
    _print(summary, folder, console)
    return summary


def _summarise(runs: list[Run]) -> dict[str, Any]:
    """Return mean and sample standard deviation over the seeds, of the last epoch's student on the test split."""
    row: dict[str, Any] = {"parameters": runs[0].results["parameters"]}
    for name in METRICS:
        values = [run.results["metrics"]["last epoch"][name] for run in runs]
        row[name] = {"mean": statistics.mean(values), "std": statistics.stdev(values), "values": values}
    return row


def _print(summary: dict[str, Any], folder: Path, console: Console) -> None:
    title = f"digits, test split, mean ± standard deviation over {summary['seeds']} seeds"
    table = Table("", "parameters", *METRICS, title=title, title_justify="left")
    for name, row in summary["rows"].items():
        figures = [f"{format_metric(m, row[m]['mean'])} ± {format_metric(m, row[m]['std'])}" for m in METRICS]
        table.add_row(name, f"{row['parameters']:,}", *figures)
    console.print(table)
    console.print(f"run folders: {folder}/    took {duration(summary['seconds'])}", soft_wrap=True, highlight=False)


def _free_folder() -> Path:
    names = itertools.chain(["demo"], (f"demo-{number}" for number in itertools.count(2)))
    return next(folder for folder in (Path("runs") / name for name in names) if not folder.exists())
