"""A step that was not finite, run again as it was: the same weights, the same images, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from angularkd.config import DistillConfig, TrainConfig
from angularkd.data import DataSet
from angularkd.errors import InputError
from angularkd.runs import RunFolder
from angularkd.system.modes import seeded
from angularkd.training.build import build_distillation, build_training
from angularkd.training.build_data import open_dataset
from angularkd.training.diagnosis import Diagnosis, diagnose
from angularkd.training.job import Job
from angularkd.training.resuming import checkpointer_of

KINDS: dict[str, type[TrainConfig] | type[DistillConfig]] = {"TrainConfig": TrainConfig, "DistillConfig": DistillConfig}
"""Configurations of runs, by the name that nonfinite.json gives."""


@dataclass(frozen=True)
class Replay:
    """A step that was run again.

    Attributes:
        epoch: the epoch, from 1.
        step: of the run, from 1.
        view: the augmentation of its images; None where they are mixed.
        indices: the rows of its images in the training split.
        diagnosis: what its parts hold; of several batches that make a step, those of the first that is not finite.
        rows: the rows in the training split of the images by which the first part that is not finite is so, where it has some.
    """

    epoch: int
    step: int
    view: int | None
    indices: tuple[int, ...]
    diagnosis: Diagnosis
    rows: tuple[int, ...]


def replay(folder: RunFolder, device: str = "auto", trust: tuple[str, ...] = ()) -> Replay:
    """Run the step again that was not finite in a run's folder, with the weights that were saved then.

    Args:
        folder: of the run.
        device: where to compute.
        trust: Python files whose code may run, which the run's options name.

    Raises:
        InputError: where there was no such step, or something that it needs has changed since.
    """
    record, options = folder.read_nonfinite(), folder.read_config()
    if record is None or options is None:
        raise InputError(
            f"there is nothing to run again in {folder.path}: the folder of a run whose loss or gradient was not finite holds "
            "nonfinite.json beside its config.yaml"
        )
    config = KINDS[record["command"]].from_options(
        **{**options, "device": device, "trust": trust, "out": str(folder.path)}
    )
    dataset = open_dataset(config)
    with seeded(config.seed):
        job = _built(config, folder, dataset)
        checkpointer_of(job, folder).at(folder.nonfinite_checkpoint).load(lambda _: None, as_started=False)
        diagnosis, indices = _diagnosed(job, record)
        job.distiller.close()
    first = diagnosis.first
    rows = tuple(indices[place] for place in first.rows if place < len(indices)) if first is not None else ()
    return Replay(record["epoch"] + 1, record["step"], record["view"], tuple(record["indices"]), diagnosis, rows)


def _built(config: TrainConfig | DistillConfig, folder: RunFolder, dataset: DataSet) -> Job:
    if isinstance(config, TrainConfig):
        return build_training(config, dataset)
    fitted = str(folder.teacher.path) if config.teacher_train is not None else None
    return build_distillation(config, dataset, fitted_teacher=fitted)


def _diagnosed(job: Job, record: dict[str, Any]) -> tuple[Diagnosis, list[int]]:
    """Return what the first batch of the step that is not finite holds, or its last batch, and its rows."""
    for batch in islice(job.batches.epoch(record["epoch"], record["batch"]), record["batches"]):
        diagnosis = diagnose(job.distiller, batch, job.fabric.autocast())
        indices: list[int] = batch.indices.tolist()
        if diagnosis.first is not None:
            break
    return diagnosis, indices
