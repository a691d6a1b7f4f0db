"""One run of a study, in whatever process it is: from its task to what its line of results says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from angularkd.config import DistillConfig, TrainConfig
from angularkd.data import DataSet
from angularkd.errors import InputError
from angularkd.runs import RunFolder
from angularkd.studies.cells import Task
from angularkd.system.environment import hardware, versions
from angularkd.system.stopping import Stop
from angularkd.training import open_dataset, run_distillation, run_training, save_untrained

RUNS, CACHE = "runs", "cache"
"""Folders in that of a study."""
LONGEST_ERROR = 500


def run_folder(study: Path, task: Task) -> RunFolder:
    """Return the folder of a run in that of its study."""
    return RunFolder(study / RUNS / task.run)


def carry_out(task: Task, study: Path, here: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Do a run, or go on with it, or read what it has left.

    Args:
        task: the run.
        study: the folder of the study, absolute.
        here: the folder in which relative paths begin.
        stop: asks it to end, with a checkpoint; None where nobody does.

    Returns:
        What its line of results says of the run, also of one that failed.
    """
    if Path.cwd() != here:
        os.chdir(here)
    folder = run_folder(study, task)
    outcome: dict[str, Any] = {"run": task.run, "status": "finished", "error": None, "versions": versions()}
    with _threads(task.threads):
        outcome["hardware"] = hardware()
        try:
            return {**outcome, **_done(task, folder, study, stop)}
        except Exception as error:
            what = str(error).replace("`", "'") if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            failed = {
                "status": "failed",
                "error": " ".join(what.split())[:LONGEST_ERROR],
                "configuration": dict(task.options),
            }
            return {**outcome, **failed, "results": {}, "validation": {}, "seconds": None}


def _done(task: Task, folder: RunFolder, study: Path, stop: Stop | None) -> dict[str, Any]:
    """Do the run, unless it is done; return what it left."""
    made = run_folder(study, task.teacher).path if task.teacher is not None else None
    if task.action == "untrained":
        config: Any = task.config()
        if not folder.student.exists():
            save_untrained(config, folder.path)
        return {**_read(folder), "configuration": config.model_dump(mode="json")}
    if not folder.results.exists():
        resume = folder.started or bool(folder.checkpoints)
        if not resume and folder.path.exists():  # what a process that was killed has left of a beginning
            shutil.rmtree(folder.path)
        config = task.config(made, study / CACHE, out=str(folder.path), resume=resume)
        _run(task, config, stop)
    for file in folder.checkpoints:
        file.unlink()
    stored = folder.read_config() or {}
    inside = {name: value.removeprefix(f"{study}/") for name, value in stored.items() if isinstance(value, str)}
    notes = [] if task.teacher is not None and task.teacher.action != "train" else _plan_notes(folder)
    return {**_read(folder), "notes": notes, "configuration": {**stored, **inside}}  # the same wherever the study is


def _run(task: Task, config: Any, stop: Stop | None) -> None:
    if isinstance(config, DistillConfig):
        run_distillation(config, dataset=None if task.test else _without_test(open_dataset(config)), stop=stop)
        return
    assert isinstance(config, TrainConfig)
    dataset = None
    if task.action == "shuffled":
        dataset = _with_shuffled_labels(open_dataset(config), config.seed)
    elif not task.test:
        dataset = _without_test(open_dataset(config))
    run_training(config, dataset=dataset, stop=stop)


def _without_test(dataset: DataSet) -> DataSet:
    """Return the data set without test images, so that a run cannot be chosen by them."""
    return replace(dataset, test=dataset.test.select(np.zeros(0, dtype=np.int64)))


def _with_shuffled_labels(dataset: DataSet, seed: int) -> DataSet:
    """Return the data set with the labels of its training images in another order: as many of each class, and nothing to learn."""
    train = dataset.train
    labels = np.random.default_rng(seed).permutation(train.labels)
    return replace(dataset, train=replace(train, labels=labels))


def _read(folder: RunFolder) -> dict[str, Any]:
    """Return what a finished run has left."""
    results = folder.read_results()
    return {
        "results": results,
        "validation": _last_validation(folder),
        "seconds": results.get("seconds"),
        "student_hash": _digest(folder.student),
        "teacher_hash": results.get("teacher_fingerprint"),
    }


def _plan_notes(folder: RunFolder) -> list[str]:
    """Return what the plan of a distillation notes on its teacher, its data and its losses; nothing of a run without a plan."""
    if not folder.plan.exists():
        return []
    return [str(note).replace("`", "'") for note in json.loads(folder.plan.read_text(encoding="utf-8"))["notes"]]


def _last_validation(folder: RunFolder) -> dict[str, float]:
    """Return the last epoch's metrics on the validation images."""
    if not folder.metrics.exists():
        return {}
    last = json.loads(folder.metrics.read_text(encoding="utf-8").splitlines()[-1])
    return {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}


def _digest(file: Path) -> str:
    with file.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()[:32]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Have PyTorch compute on so many threads inside: other numbers of them give other last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
