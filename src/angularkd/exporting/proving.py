"""One export, from a student to a folder whose file has proved itself: written beside its place, checked, then renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from angularkd.errors import InputError
from angularkd.exporting.checks import Images, Outputs, compare, time_all
from angularkd.exporting.deployable import Deployable
from angularkd.exporting.onnx_file import write_int8
from angularkd.inference import load, open_exported
from angularkd.system.files import folder_written_whole, write_json, write_text
from angularkd.system.modes import one_thread

TOLERANCE = 1e-3
"""Largest difference of an output from the original's, as a share of the largest output, and of 1 where that is less."""
INT8_FILE = "student.int8.onnx"


@dataclass(frozen=True)
class Export:
    """What is to be exported, and how it is checked.

    Attributes:
        network: the student with its preprocessing.
        out: the folder, which does not exist yet.
        file: the name of the file in it.
        write: writes the file.
        metadata: of the file.
        original_bytes: of the student's own file.
        images: to compare on.
        calibration: training images for the 8-bit form; None without it.
        card: from the report to the text of the model card.
        trust: Python files whose code may run.
    """

    network: Deployable
    out: Path
    file: str
    write: Callable[[Deployable, Path, dict[str, Any]], None]
    metadata: dict[str, Any]
    original_bytes: int
    images: Images
    calibration: Images | None
    card: Callable[[dict[str, Any]], str]
    trust: tuple[str, ...] = ()


def prove(export: Export) -> dict[str, Any]:
    """Write the file and all that lies beside it, check it, and put the folder in place.

    Returns:
        What export.json holds: of "original", "exported" and "int8" the size, differences, accuracy and time.

    Raises:
        InputError: where the file does not give what the student gives; nothing is put in place then.
    """
    with folder_written_whole(export.out) as folder:
        file = folder / export.file
        export.write(export.network, file, export.metadata)
        files = {"exported": file}
        if export.calibration is not None:
            files["int8"] = folder / INT8_FILE
            write_int8(file, files["int8"], _encoded(export.network, export.calibration))
        original = _original(export.network)
        outputs = {name: _opened(path, export.trust) for name, path in files.items()}
        figures = compare(original, outputs, export.images)
        _check(figures["exported"], export)
        with one_thread():
            again = {name: _opened(path, export.trust) for name, path in files.items()}
            times = time_all({"original": original, **again}, export.network.signature.image_size)
        sizes = {"original": export.original_bytes, **{name: _size(path) for name, path in files.items()}}
        report = {
            **export.metadata,
            "files": {name: path.name for name, path in files.items()},
            "checked_on": export.images.what,
            "threads_timed": 1,
            "calibrated_on": export.calibration.what if export.calibration is not None else None,
            "figures": {
                name: {"bytes": sizes[name], **row, "milliseconds": times[name]} for name, row in figures.items()
            },
        }
        write_json(folder / "export.json", report)
        write_text(folder / "README.md", export.card(report))
    return report


def _original(network: Deployable) -> Outputs:
    """Return the student as evaluation runs it, in the terms of the signature; the network that is written has no part in it."""

    def outputs(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = network.student.predict(images)
            if network.signature.output == "logits":
                return logits
            return (logits.float() / network.signature.temperature).softmax(dim=1)

    return outputs


def _opened(file: Path, trust: tuple[str, ...]) -> Outputs:
    """Open a file as whoever uses it does: what `load` opens is what was written."""
    if file.suffix == ".safetensors":
        return load(file, device="cpu", trust=trust).outputs
    return open_exported(file).outputs


def _encoded(network: Deployable, images: Images) -> Iterator[Tensor]:
    return (network.signature.encode(batch) for batch, _ in images.batches())


def _size(file: Path) -> int:
    """Return the bytes of a file, and of the weights that lie beside it."""
    return sum(part.stat().st_size for part in (file, file.with_suffix(".bin")) if part.is_file())


def _check(figures: dict[str, Any], export: Export) -> None:
    allowed = TOLERANCE * max(1.0, figures["largest_output"])
    apart, images = figures["max_difference"], figures["images"]
    different = round((1 - figures["equal_top1"]) * images)
    if apart > allowed or different:
        raise InputError(
            f"{export.file} differs from the student by {apart:.2g} ({allowed:.2g} is allowed) and in the first class of {different} of "
            f"{images} images: nothing is written; export another `format`"
        )
