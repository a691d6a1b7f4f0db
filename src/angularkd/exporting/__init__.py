"""Export: a student as a file that other programs run, which proves itself before it is put in place.

FORMATS is the table of what can be written. A new one is a function in a file of its own and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angularkd.exporting.card import model_card
from angularkd.exporting.checks import Images, shown_time
from angularkd.exporting.deployable import Deployable
from angularkd.exporting.onnx_file import write_onnx
from angularkd.exporting.openvino_file import write_openvino
from angularkd.exporting.proving import Export, prove
from angularkd.exporting.torch_file import write_torch_export
from angularkd.exporting.weight_files import check_timm, write_safetensors, write_timm
from angularkd.models import Classifier

__all__ = ["FORMATS", "Deployable", "Export", "Images", "model_card", "prove", "shown_time"]


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        file: the name of what is opened of the folder.
        write: called with the network, the file and the metadata.
        check: raises InputError for students that it cannot hold.
    """

    file: str
    write: Callable[[Deployable, Path, dict[str, Any]], None]
    check: Callable[[Classifier], None] = lambda student: None


FORMATS: dict[str, Format] = {
    "onnx": Format("student.onnx", write_onnx),
    "torch-export": Format("student.pt2", write_torch_export),
    "openvino": Format("student.xml", write_openvino),
    "safetensors": Format("student.safetensors", write_safetensors),
    "timm": Format("model.safetensors", write_timm, check=check_timm),
}
