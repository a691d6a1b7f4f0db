"""OpenVINO's intermediate representation: FILE.xml with its weights in FILE.bin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from angularkd.exporting.deployable import Deployable, foreign_code
from angularkd.exporting.onnx_file import write_onnx
from angularkd.system.extras import import_extra


def write_openvino(network: Deployable, file: Path, metadata: dict[str, Any]) -> None:
    """Write a network for OpenVINO in float32, by way of ONNX, its metadata inside.

    Raises:
        InputError: for a network that cannot be written so, and where the libraries are not installed.
    """
    openvino = import_extra("openvino", "openvino", "exporting for OpenVINO")
    between = file.with_suffix(".onnx")
    write_onnx(network, between, metadata)
    with foreign_code("OpenVINO cannot convert the student"):
        model = openvino.convert_model(str(between))
        model.set_rt_info(json.dumps(metadata), "angularkd")
        openvino.save_model(model, str(file), compress_to_fp16=False)
    between.unlink()
