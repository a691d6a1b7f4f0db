"""What tests of several rooms share: comparing trained weights, and building jobs from options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from angularkd.config import DistillConfig, TrainConfig
from angularkd.system.modes import seeded
from angularkd.training import Job, build_distillation, build_training, open_dataset

DIGITS: dict[str, Any] = {"data": "digits", "image_size": 8, "batch_size": 64, "schedule": "onecycle", "device": "cpu"}
"""The options of a small run on the embedded digits."""


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts are equal in every bit."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


def saved_weights(folder: Path, file: str = "student.safetensors") -> dict[str, Tensor]:
    """Return the weights in a file of a run's folder."""
    return load_file(folder / file)


def training_job(**options: Any) -> Job:
    """Build what `train` would run: its data opened, its seed set."""
    config = TrainConfig.from_options(**options)
    dataset = open_dataset(config)
    with seeded(config.seed):
        return build_training(config, dataset)


def distillation_job(**options: Any) -> Job:
    """Build what `distill` would run: its data opened, its seed set."""
    config = DistillConfig.from_options(**options)
    dataset = open_dataset(config)
    with seeded(config.seed):
        return build_distillation(config, dataset)
