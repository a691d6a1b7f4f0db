"""A run's folder as a model: its student."""

from __future__ import annotations

from pathlib import Path

from angularkd.errors import InputError
from angularkd.models.weights import read_description
from angularkd.runs import STUDENT_FILE


def student_in(folder: str | Path) -> Path | None:
    """Return the weights of the student in a finished run's folder; None where there are none."""
    file = Path(folder) / STUDENT_FILE
    return file if file.is_file() else None


def architecture_in(file: Path) -> str:
    """Return the SPEC of the network that a student's weights are for.

    Raises:
        InputError: where the file does not say it.
    """
    model = read_description(file).model
    if model is None:
        raise InputError(f"{file} does not say which model it holds: name the model, and the file as its weights")
    return model
