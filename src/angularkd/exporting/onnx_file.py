"""ONNX files, and their 8-bit form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from angularkd.exporting.deployable import Deployable, foreign_code
from angularkd.system.extras import import_extra


def write_onnx(network: Deployable, file: Path, metadata: dict[str, Any]) -> None:
    """Write a network as ONNX, its metadata inside.

    Raises:
        InputError: for a network that cannot be written so, and where the libraries are not installed.
    """
    onnx = import_extra("onnx", "export", "exporting ONNX")
    import_extra("onnxscript", "export", "exporting ONNX")
    import_extra("onnxruntime", "export", "checking an ONNX file")
    program = network.program()
    with foreign_code("the student has an operation that torch.onnx cannot write"), _quiet(), torch.no_grad():
        written = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=[network.signature.output], verbose=False
        )
        assert written is not None
        model = written.model_proto
    onnx.helper.set_model_props(model, {"angularkd": json.dumps(metadata)})
    onnx.save(model, str(file))


def write_int8(file: Path, quantised: Path, calibration: Iterator[Tensor]) -> None:
    """Write the 8-bit form of an ONNX file: static, per channel, as QDQ pairs.

    Args:
        file: the ONNX file in float32.
        quantised: where to write.
        calibration: batches of training images in the form that the file takes, by which activations get their ranges.
    """
    import_extra("onnxruntime", "export", "8-bit ONNX")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            images = next(calibration, None)
            return {"images": images.numpy()} if images is not None else None

    onnx = import_extra("onnx", "export", "8-bit ONNX")
    prepared = quantised.with_suffix(".prepared")
    with foreign_code("onnxruntime cannot quantise the student"), _quiet():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantised),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # 7 bits of the weights: with 8, processors without VNNI saturate
        )
        prepared.unlink()
        model = onnx.load(str(quantised))
        properties = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, str(quantised))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress from standard output and the logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
