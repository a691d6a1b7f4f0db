"""What 8 bits cost a ResNet-20 on CIFAR-10, and how near ONNX comes to PyTorch.

    python benchmarks/export_cifar.py WEIGHTS.safetensors DATA FOLDER

WEIGHTS are those of a cifar/resnet20 with its preprocessing in JSON beside it, DATA is CIFAR-10 in any form. Makes a run of them in
FOLDER, as `angularkd train` leaves one, and exports it with --int8: the table is printed, and lies in FOLDER/exports/onnx/export.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.console import Console

from angularkd.commands.export import run_export
from angularkd.config import ExportConfig
from angularkd.data import open_data
from angularkd.models import open_classifier, save_weights
from angularkd.runs import RunFolder, StudentMetadata
from angularkd.system.files import write_text


def main(weights: str, data: str, folder: str) -> None:
    run = RunFolder(Path(folder))
    student = open_classifier("cifar/resnet20", 10, weights=weights)
    assert student.preprocessing is not None
    metadata = StudentMetadata(
        model="cifar/resnet20",
        classes=list(open_data(data).classes),
        image_size=[32, 32],
        mean=list(student.preprocessing.mean),
        std=list(student.preprocessing.std),
        input_size=None,
        torch=torch.__version__,
    )
    run.path.mkdir(parents=True)
    save_weights(run.student, student.module, metadata.as_dict())
    write_text(run.config, f"data: {data}\n")
    run_export(ExportConfig.from_options(run=folder, int8=True), Console(width=80))


if __name__ == "__main__":
    main(*sys.argv[1:])
