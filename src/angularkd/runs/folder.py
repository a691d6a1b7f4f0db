"""A run's folder: its files by name, what is read from them and written to them, and who may write there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from angularkd.errors import InputError
from angularkd.system.files import check_writable, write_json, write_json_lines, write_text

STUDENT_FILE = "student.safetensors"
"""The weights in a run's folder, which make the folder itself a SPEC."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its results.json holds."""

    folder: Path
    results: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the names of the files in it."""

    path: Path

    @property
    def config(self) -> Path:
        """Return the file of the resolved configuration, which repeats the run."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """Return the file of what was planned and measured before the first step."""
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        """Return the file with a line for each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Return the file with everything that a resumed run needs."""
        return self.path / "checkpoints/last.ckpt"

    @property
    def best(self) -> Path:
        """Return the file of the weights of the best epoch by validation accuracy."""
        return self.path / "checkpoints/best.safetensors"

    @property
    def student(self) -> Path:
        """Return the file of the student's weights after the last epoch."""
        return self.path / STUDENT_FILE

    @property
    def results(self) -> Path:
        """Return the file of the final metrics."""
        return self.path / "results.json"

    @property
    def teacher(self) -> RunFolder:
        """Return the folder of the run that fitted the teacher to the data, where one did."""
        return RunFolder(self.path / "teacher")

    @property
    def started(self) -> bool:
        """Return whether a run was started here."""
        return self.config.exists()

    def claim(self, resume: bool) -> None:
        """Check that a run may be started here, or, with `resume`, that there is one to go on with.

        Raises:
            InputError: when the folder cannot be written to, holds something and `resume` is not given, or holds no run to resume.
        """
        check_writable(self.path, "out")
        if self.path.is_dir() and any(self.path.iterdir()) and not resume:
            raise InputError(
                f"the folder {self.path} exists and is not empty: give another with `out`, or go on with `resume`"
            )
        if resume and not (self.checkpoint.exists() or self.started or self.teacher.started):
            raise InputError(
                f"there is no run to resume in {self.path}: leave out `resume`, or name its folder with `out`"
            )

    def read_config(self) -> dict[str, Any] | None:
        """Return the options of the run that was started here, None where they cannot be read."""
        try:
            options = yaml.safe_load(self.config.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return None
        return options if isinstance(options, dict) else None

    def write_config(self, text: str) -> None:
        """Write the resolved configuration, YAML text."""
        write_text(self.config, text)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the plan."""
        write_json(self.plan, plan)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write a line for each epoch."""
        write_json_lines(self.metrics, rows)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write the final metrics."""
        write_json(self.results, results)
