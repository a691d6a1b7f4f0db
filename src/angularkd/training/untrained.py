"""A network as its seed initialises it, saved as a run saves one that is trained."""

from __future__ import annotations

from pathlib import Path

from angularkd.config import TrainConfig
from angularkd.models import save_weights
from angularkd.runs import RunFolder
from angularkd.system.modes import seeded
from angularkd.training.build import build_training
from angularkd.training.build_data import open_dataset
from angularkd.training.results import student_metadata


def save_untrained(config: TrainConfig, folder: Path) -> Path:
    """Write the network that `train` would begin with, so that its folder is a SPEC; return the file.

    Raises:
        InputError: as `run_training` does.
    """
    dataset = open_dataset(config)
    with seeded(config.seed):
        job = build_training(config, dataset)
    file = RunFolder(folder).student
    save_weights(file, job.student.module, student_metadata(job))
    job.distiller.close()
    return file
