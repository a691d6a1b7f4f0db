"""What runs exported files: ENGINES, from the ending of a file's name to what opens it.

A new one is a function here and a row of the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from angularkd.errors import InputError
from angularkd.inference.signature import KEY
from angularkd.system.extras import import_extra

Run = Callable[[Tensor], Tensor]
"""From images in the form of a file's signature to its outputs [batch, classes]."""


def open_onnx(file: Path) -> tuple[Run, str | None]:
    """Open an ONNX file with onnxruntime on the CPU, with as many threads as PyTorch has."""
    runtime = import_extra("onnxruntime", "export", f"{file}, an ONNX file,")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(KEY)


def open_torch_export(file: Path) -> tuple[Run, str | None]:
    """Open a program of torch.export."""
    extra_files = {KEY: ""}
    run = torch.export.load(str(file), extra_files=extra_files).module()
    return run, extra_files[KEY]


def open_openvino(file: Path) -> tuple[Run, str | None]:
    """Open OpenVINO's intermediate representation, compiled for this processor in float32."""
    openvino = import_extra("openvino", "openvino", f"{file}, a file of OpenVINO,")
    core = openvino.Core()
    model = core.read_model(str(file))
    text = model.get_rt_info(KEY).value if model.has_rt_info(KEY) else None
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", hints)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled(images.numpy())[0].copy())

    return run, text


ENGINES: dict[str, Callable[[Path], tuple[Run, str | None]]] = {
    ".onnx": open_onnx,
    ".pt2": open_torch_export,
    ".xml": open_openvino,
}


def open_engine(file: Path) -> tuple[Run, str | None]:
    """Return what runs an exported file, and the text of its metadata.

    Raises:
        InputError: for a file that its library cannot open.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}: name the folder of a run, or a file that was exported of it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how the libraries read their own files
            return ENGINES[file.suffix](file)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes its reader raise anything
        reason = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
        raise InputError(f"{file} cannot be opened ({reason[:200]}): export the run again") from None
