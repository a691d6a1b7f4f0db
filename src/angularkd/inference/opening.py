"""From the name of a run, or of a file that was exported of it, to a classifier."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.inference.classifier import ImageClassifier
from angularkd.inference.engines import ENGINES, open_engine
from angularkd.inference.signature import Signature, parse_signature
from angularkd.models import Classifier, fit_to_images, is_own, open_classifier, read_metadata
from angularkd.runs import STUDENT_FILE
from angularkd.system.devices import open_fabric, place
from angularkd.system.modes import seeded

IN_FOLDERS = (STUDENT_FILE, "model.safetensors", "student.onnx", "student.pt2", "student.xml")
"""What is opened of a folder: a run's, or one that an export has made."""


def load(
    source: str | Path,
    *,
    device: str = "auto",
    trust: Collection[str] = (),
    module: nn.Module | None = None,
    calibrated: bool = True,
) -> ImageClassifier:
    """Open a student to classify images with.

    Args:
        source: the folder of a run, a folder or a file that `export` has made, or a student's weights.
        device: auto, cpu, cuda or mps; exported files run on the CPU.
        trust: Python files whose code may run, where the run's model is FILE.py:CALLABLE.
        module: the network, where the run is of one that was passed in Python.
        calibrated: whether logits are divided by the temperature that was fitted on the run's validation images, where the file says
            one; their order stays.

    Returns:
        The classifier: `load("runs/student").predict("photo.jpg")` gives names of classes with their probabilities.

    Raises:
        InputError: where there is no such run or file, or it cannot be used.
    """
    file = find_file(source)
    if file.suffix in ENGINES:
        if device not in ("auto", "cpu"):
            raise InputError(f"{file} runs on the CPU: leave `device` at auto, or name the run that it was exported of")
        return replace(open_exported(file), calibrated=calibrated)
    target = open_fabric(device, "32-true").device
    student = open_student(file, trust=trust, module=module)
    place(student.module, target)
    return replace(as_image_classifier(student, str(source), target), calibrated=calibrated)


def find_file(source: str | Path) -> Path:
    """Return the file that is opened for a folder, or the file itself.

    Raises:
        InputError: where there is none.
    """
    path = Path(source)
    if path.is_dir():
        found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        if found is None:
            raise InputError(
                f"{path} holds no {STUDENT_FILE}, nor an exported file: name the folder of a finished run, or of an export"
            )
        return found
    if not path.is_file():
        raise InputError(
            f"there is no run {path}: name the folder of a finished run, or a file that was exported of it"
        )
    if path.suffix not in (".safetensors", *ENGINES):
        raise InputError(
            f"{path} is no exported file: those end in {', '.join(ENGINES)} or .safetensors; or name the folder of a run"
        )
    return path


def open_exported(file: Path) -> ImageClassifier:
    """Open a file that `export` has made with the library that runs it.

    Raises:
        InputError: for a file that cannot be opened, or comes from elsewhere.
    """
    run, text = open_engine(file)
    signature, _ = parse_signature(text, file)

    def outputs(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return run(signature.encode(images)).clone()

    return ImageClassifier(str(file), signature, outputs)


def open_student(file: Path, *, trust: Collection[str] = (), module: nn.Module | None = None) -> Classifier:
    """Open a student's weights, in evaluation mode, with the names of its classes and fitted to its images.

    Raises:
        InputError: for weights that do not say what they are of, and code that is not trusted.
    """
    metadata: dict[str, Any] = read_metadata(file)
    model, classes = metadata.get("model"), metadata.get("classes")
    if not isinstance(model, str) or not isinstance(classes, list) or not classes:
        raise InputError(f"{file} does not say its model and classes: name a run, whose {STUDENT_FILE} does")
    with seeded(0):
        if file.name == STUDENT_FILE:
            student = open_classifier(str(file.parent), len(classes), trust=trust, module=module)
        elif is_own(model):
            raise InputError(f"{file} is of a model in Python: call the file {STUDENT_FILE}, and name its folder")
        else:
            student = replace(open_classifier(model, len(classes), weights=str(file)), architecture=model)
        if student.classes is None or student.image_size is None or student.preprocessing is None:
            raise InputError(f"{file} does not say its classes, image size and normalization: train the student again")
        student = fit_to_images(student, student.image_size, None, "model")
    student.module.eval()
    return student


def as_image_classifier(student: Classifier, source: str, device: torch.device) -> ImageClassifier:
    """Return a student that is on a device as a classifier of images."""
    assert student.classes is not None and student.image_size is not None, "open_student has seen to it"

    def outputs(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return student.predict(images.to(device)).float().cpu()

    signature = Signature(
        classes=student.classes, image_size=student.image_size, temperature=student.temperature or 1.0
    )
    return ImageClassifier(source, signature, outputs)
