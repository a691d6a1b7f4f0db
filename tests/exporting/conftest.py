"""Students to export: runs as `train` leaves them, with random weights that take a moment to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from angularkd.models import open_classifier, save_weights
from angularkd.runs import STUDENT_FILE, StudentMetadata
from angularkd.system.modes import seeded


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of unequal sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(9, 8), (20, 31), (8, 8), (40, 12), (16, 16)]):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the folder of a run whose student has random weights."""

    def make(model: str, size: int = 32, classes: int = 3) -> Path:
        folder = tmp_path_factory.mktemp("run")
        with seeded(0):
            module = open_classifier(model, classes).module
        names = [f"class {number}" for number in range(classes)]
        described = StudentMetadata(model, names, [size, size], [0.4] * 3, [0.3] * 3, None, torch.__version__)
        save_weights(folder / STUDENT_FILE, module, described.as_dict())
        return folder

    return make
