"""Programs of torch.export, for PyTorch without this package: `torch.export.load(FILE).module()`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from angularkd.exporting.deployable import Deployable, foreign_code


def write_torch_export(network: Deployable, file: Path, metadata: dict[str, Any]) -> None:
    """Write a network as a program of torch.export, its metadata inside.

    Raises:
        InputError: for a network that cannot be traced.
    """
    program = network.program()
    with foreign_code("torch.export cannot save the student"):
        torch.export.save(program, str(file), extra_files={"angularkd": json.dumps(metadata)})
