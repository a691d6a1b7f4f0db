"""From a study's file to its cells: every run that it takes, with its configuration, in the order in which they are begun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from angularkd.config import DistillConfig, Recipe, TrainConfig
from angularkd.runs import STUDENT_FILE, identity_of

ACTIONS: dict[str, type[TrainConfig] | type[DistillConfig]] = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "untrained": TrainConfig,
    "shuffled": TrainConfig,
}
"""What a run can be: a training, a distillation, a network saved as its seed initialises it, a training on shuffled labels."""
FILES = ("teacher", "student", "model", "teacher_weights", "student_weights", "weights", "teacher_classes")
"""Options that may name files, whose contents count."""


@dataclass(frozen=True)
class Task:
    """A run: what a process needs to know to do it.

    Attributes:
        action: one of ACTIONS.
        options: its configuration, without folders that lie in the study's.
        teacher: the task of the teacher that is made first.
        test: whether the student is evaluated on the test images.
        cached: whether the teacher's answers are stored.
        threads: that it computes on.
        trust: files whose code may run.
    """

    action: str
    options: Mapping[str, Any]
    teacher: Task | None = None
    test: bool = True
    cached: bool = False
    threads: int = 1
    trust: tuple[str, ...] = ()
    run: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", self._digest())

    @property
    def lane(self) -> str | None:
        """Return what tasks have in common that store answers in one cache, which one process fills at a time."""
        if not self.cached:
            return None
        teacher = self.teacher.run if self.teacher is not None else self.options["teacher"]
        return f"{teacher} {self.options.get('seed')}"

    def config(self, teacher: Path | None = None, cache: Path | None = None, **more: Any) -> Recipe:
        """Return the configuration, checked.

        Args:
            teacher: the folder of its teacher, where the study makes one.
            cache: the folder of caches, for a task that uses one.
            more: options beside those that are known: folder, resumption.

        Raises:
            InputError: for options that cannot be.
        """
        options = {**self.options, **more, "trust": self.trust}
        if self.teacher is not None:
            options["teacher"] = str(teacher or "runs/teacher")
        if self.cached:
            options["cache"] = str(cache or "cache")
        return ACTIONS[self.action].from_options(**options)

    def _digest(self) -> str:
        """Hash all that the numbers depend on: the options that are not the defaults, and the contents of the files that they name."""
        config = self.config()
        given = identity_of(self.action, config.model_dump(mode="json", exclude_defaults=True))
        if isinstance(config, DistillConfig):
            given |= {"loss": config.losses if config.loss else "default", "cache": self.cached}
        if self.teacher is not None:
            given["teacher"] = self.teacher.run
        contents = {name: contents_of(str(given[name])) for name in FILES if name in given}
        about = [given, contents, self.test, self.threads]
        return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Cell:
    """A place in the table and a seed, with the run that fills it.

    Attributes:
        kind: "teacher", "selection" (a trial of settings, which sees no test image) or "result".
        pair, vary, objective, settings, seed: its place.
    """

    kind: str
    pair: str
    vary: Mapping[str, Any]
    objective: str
    settings: Mapping[str, Any]
    seed: int
    task: Task

    @property
    def place(self) -> dict[str, Any]:
        """Return what a line of results says of the cell's place."""
        names = ("kind", "pair", "objective", "vary", "settings", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def id(self) -> str:
        """Return what tells it from every other cell."""
        about = json.dumps([self.place, self.task.run], sort_keys=True)
        return hashlib.blake2b(about.encode(), digest_size=8).hexdigest()


def contents_of(name: str) -> str:
    """Return a digest of what a SPEC or an option names, where that is a file or the folder of a run; else an empty text."""
    path = Path(name.rpartition(":")[0] if ".py:" in name else name).expanduser()
    file = path / STUDENT_FILE if path.is_dir() else path
    try:
        about = file.stat()
        return _digest_of(file, about.st_mtime_ns, about.st_size)
    except OSError:
        return ""


@cache
def _digest_of(file: Path, _: int, __: int) -> str:
    """Hash a file, once in each of its states."""
    with file.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()[:32]
