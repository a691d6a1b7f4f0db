"""A run's folder: its files by name, what is read from them and written to them, and who may write there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from angularkd.errors import InputError
from angularkd.system.files import (
    check_writable,
    remove_empty,
    remove_temporary,
    write_json,
    write_json_lines,
    write_text,
)
from angularkd.system.locks import Lock
from angularkd.system.plain_yaml import read_yaml_file

STUDENT_FILE = "student.safetensors"
"""The weights in a run's folder, which make the folder itself a SPEC."""
LOCK_FILE = ".lock"
"""The file that is there while a process runs in the folder."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its results.json holds."""

    folder: Path
    results: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the names of the files in it."""

    path: Path
    lock: Lock | None = field(default=None, compare=False, repr=False)
    """Which this process holds for it, where it has claimed the folder."""

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
    def previous(self) -> Path:
        """Return the file of the checkpoint before the last, for when that is damaged."""
        return self.path / "checkpoints/previous.ckpt"

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
    def baseline(self) -> RunFolder:
        """Return the folder of the run that trained the student without its teacher, where one did."""
        return RunFolder(self.path / "baseline")

    @property
    def report(self) -> Path:
        """Return the file of the report, where one was written."""
        return self.path / "report.html"

    @property
    def nonfinite(self) -> Path:
        """Return the file that says at which step, of which images, a loss or gradient was not finite."""
        return self.path / "nonfinite.json"

    @property
    def nonfinite_checkpoint(self) -> Path:
        """Return the file of the state at that step."""
        return self.path / "checkpoints/nonfinite.ckpt"

    @property
    def started(self) -> bool:
        """Return whether a run was started here."""
        return self.config.exists()

    @property
    def resumable(self) -> bool:
        """Return whether there is a run here that can go on, or one beside it."""
        return bool(self.checkpoints) or self.started or self.teacher.started or self.baseline.started

    @contextmanager
    def claimed(self, resume: bool) -> Iterator[RunFolder]:
        """Hold the folder for a run that is started here, or, with `resume`, goes on; no other process gets it meanwhile.

        A run that fails before anything was trained leaves nothing behind.

        Raises:
            InputError: when another process has it, the folder cannot be written to, holds something and `resume` is not given, or
                holds no run to resume.
        """
        check_writable(self.path, "out")
        self._check(resume)  # before anything is made
        made = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.path / LOCK_FILE)
        try:
            if not lock.acquire():
                raise InputError(f"another process runs in {self.path}: wait until it is done, or give another `out`")
            self._check(resume)
            begun_here = not self.started
            for file in self._files:
                remove_temporary(file)
            try:
                yield replace(self, lock=lock)
            except Exception:
                if begun_here and not self.checkpoints and not self.nonfinite.exists():
                    self._discard()
                raise
        finally:
            lock.release()
            remove_empty(made)

    @property
    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that are here, the last first."""
        return [file for file in (self.checkpoint, self.previous) if file.exists()]

    @property
    def _files(self) -> tuple[Path, ...]:
        checkpoints = self.checkpoint, self.previous, self.best, self.nonfinite_checkpoint, self.nonfinite
        return (*checkpoints, self.config, self.plan, self.metrics, self.student, self.results)

    def _check(self, resume: bool) -> None:
        others = [path for path in self.path.iterdir() if path.name != LOCK_FILE] if self.path.is_dir() else []
        if others and not resume:
            raise InputError(
                f"the folder {self.path} exists and is not empty: give another with `out`, or go on with `resume`"
            )
        if resume and not self.resumable:
            raise InputError(
                f"there is no run to resume in {self.path}: leave out `resume`, or name its folder with `out`"
            )

    def check_held(self) -> None:
        """Check that the folder is still there, and this process's.

        Raises:
            InputError: where it was removed, or another was put in its place.
        """
        if self.lock is not None and not self.lock.in_place:
            raise InputError(
                f"the folder {self.path} was removed or moved while a run was writing to it, so the run ends: start it anew, or go on "
                "where it is now with `out` and `resume`"
            )

    def _discard(self) -> None:
        """Remove the files of a run that has trained nothing."""
        for file in self._files:
            file.unlink(missing_ok=True)
        remove_empty([self.checkpoint.parent])
        remove_empty([self.path])

    def read_config(self) -> dict[str, Any] | None:
        """Return the options of the run that was started here, None where they cannot be read."""
        try:
            options = read_yaml_file(self.config)
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return None
        return options if isinstance(options, dict) else None

    def read_results(self) -> dict[str, Any]:
        """Return the final metrics of the run, empty where they cannot be read."""
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return results if isinstance(results, dict) else {}

    def read_nonfinite(self) -> dict[str, Any] | None:
        """Return the step that was not finite, None where there was none or it cannot be read."""
        try:
            step = json.loads(self.nonfinite.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        kinds = {"command": str, "epoch": int, "step": int, "batch": int, "batches": int, "indices": list}
        sound = isinstance(step, dict) and all(isinstance(step.get(name), kind) for name, kind in kinds.items())
        return {"view": None, **step} if sound else None

    def write_config(self, text: str) -> None:
        """Write the resolved configuration, YAML text."""
        write_text(self.config, text)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the plan."""
        write_json(self.plan, plan)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write a line for each epoch."""
        write_json_lines(self.metrics, rows)

    def write_nonfinite(self, step: Mapping[str, Any]) -> None:
        """Write at which step, of which images, a loss or gradient was not finite."""
        write_json(self.nonfinite, step)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write the final metrics."""
        write_json(self.results, results)
