"""Weights alone: a safetensors file that angularkd opens, and a folder that timm opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from angularkd.errors import InputError
from angularkd.exporting.deployable import Deployable, foreign_code
from angularkd.models import Classifier, save_weights


def write_safetensors(network: Deployable, file: Path, metadata: dict[str, Any]) -> None:
    """Write a student's weights, which make their folder a SPEC."""
    save_weights(file, network.module, metadata)


def check_timm(student: Classifier) -> None:
    """Raise InputError unless a student is one that timm builds."""
    architecture = student.architecture or student.spec
    if not architecture.startswith("timm/"):
        raise InputError(
            f"timm builds no {architecture}: for such a student `format` is onnx, torch-export, openvino or safetensors"
        )


def write_timm(network: Deployable, file: Path, metadata: dict[str, Any]) -> None:
    """Write config.json and the weights, for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""
    import timm
    from timm.models._hub import save_config_for_hf  # the face of timm.models lacks it

    student = network.student
    assert student.preprocessing is not None
    described = {
        "mean": list(student.preprocessing.mean),
        "std": list(student.preprocessing.std),
        "input_size": [3, *(student.preprocessing.size or network.signature.image_size)],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    config = {"label_names": list(network.signature.classes), "pretrained_cfg": described}
    save_weights(file, network.module, metadata)
    with foreign_code("timm cannot describe the student"):
        save_config_for_hf(network.module, str(file.parent / "config.json"), model_config=config)
        timm.create_model(f"local-dir:{file.parent}", pretrained=True)
