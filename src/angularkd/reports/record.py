"""What a finished run says of itself on disk: its configuration, plan, epochs and final metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angularkd.errors import InputError
from angularkd.runs import RunFolder

REMEDY = "name the folders of finished runs, or of a study, with `runs`"


@dataclass(frozen=True)
class Record:
    """What a finished run says of itself on disk.

    Attributes:
        path: its folder.
        config: its resolved options.
        plan: what was planned; empty for a run without a teacher.
        history: a row for each epoch.
        results: its final metrics.
    """

    path: Path
    config: dict[str, Any]
    plan: dict[str, Any]
    history: list[dict[str, Any]]
    results: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.path.absolute().name

    @property
    def distilled(self) -> bool:
        """Return whether the run had a teacher."""
        return "student" in self.config

    @property
    def student(self) -> str:
        """Return the SPEC of what was trained."""
        return str(self.config["student" if self.distilled else "model"])

    @property
    def teacher(self) -> str:
        """Return the SPEC of the teacher, empty where there is none."""
        return str(self.config.get("teacher", ""))

    @property
    def objective(self) -> dict[str, Any]:
        """Return the losses with their weights, and options where they have some."""
        losses = self.config.get("loss")
        return losses if isinstance(losses, dict) else {"ce": 1.0}

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of the last epoch's student on the test images."""
        return self.results["metrics"]["last epoch"]

    @property
    def teacher_metrics(self) -> dict[str, float]:
        """Return those of the teacher, empty where it was not measured on them."""
        return self.results["metrics"].get("teacher", {})

    @property
    def baseline_metrics(self) -> dict[str, float]:
        """Return those of the same student trained without the teacher, empty where there is none."""
        return self.results["metrics"].get("from scratch", {})

    @property
    def teacher_parameters(self) -> int | None:
        """Return how many numbers the teacher has, None where that is not known."""
        known = self.results.get("teacher_parameters") or self.plan.get("teacher", {}).get("parameters")
        return int(known) if known else None


def read_record(path: Path) -> Record:
    """Read the files of a finished run.

    Raises:
        InputError: for what is no run's folder, and for a run that is not finished.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise InputError(f"there is no run {path}: {REMEDY}")
    config, results = folder.read_config(), folder.read_results()
    if config is None or not ("model" in config or "student" in config):
        raise InputError(f"{path} is not the folder of a run, which has a config.yaml: {REMEDY}")
    if not results:
        raise InputError(
            f"the run in {path} is not finished, for it has no results.json: finish it with `resume`, then make the report"
        )
    metrics = results.get("metrics")
    last = metrics.get("last epoch") if isinstance(metrics, dict) else None
    if not isinstance(last, dict) or "accuracy" not in last or not isinstance(results.get("images"), int):
        raise InputError(f"{folder.results} holds no metrics of a run: {REMEDY}")
    return Record(path, config, _plan(folder.plan), _history(folder.metrics), results)


def _plan(file: Path) -> dict[str, Any]:
    """Return the plan, empty where there is none that can be read: a run without a teacher has none."""
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of the epochs, none where they cannot be read."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError):
        return []
    return [row for row in rows if isinstance(row, dict) and "epoch" in row]
