"""Draws figures by matplotlib, from numbers to a file; nothing appears on a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from angularkd.errors import InputError
from angularkd.explanation.maps import Explanation, StageMaps
from angularkd.system.files import write_atomically

FORMATS = (".png", ".svg", ".pdf")
CELL_INCHES = 1.45


def check_figures(path: Path) -> None:
    """Raise InputError where matplotlib is not installed, or does not write such files."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"a figure is written as {', '.join(FORMATS)}, not '{path.name}': give such a name as `out`")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("drawing needs matplotlib: pip install 'angularkd[figures]'") from None


def draw_explanation(
    path: Path,
    explanation: Explanation,
    image: UInt8[np.ndarray, "height width 3"],
    teacher: str,
    student: str,
    title: str,
) -> None:
    """Draw the image with each attention map over it, and the negative, positive and angular maps at every margin.

    There is a row for each model and pair; every map has its own scale, dark to bright from its least to its largest value.

    Args:
        path: of the file, with one of the endings in FORMATS.
        explanation: what to draw.
        image: [height, width, 3].
        teacher: the name of the teacher.
        student: the name of the student.
        title: of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    margins = list(explanation.distance)
    headings = ["image", "attention Q", "negative n"]
    headings += [f"{what}, m = {margin:g}" for margin in margins for what in ("positive ψ", "angular G")]
    rows = [
        (f"{role}\n{name}\n{stage.name}\n{stage.height}x{stage.width}", maps)
        for pair, (of_teacher, of_student) in zip(explanation.pairs, explanation.stages, strict=True)
        for role, name, stage, maps in (
            ("teacher", teacher, pair.teacher, of_teacher),
            ("student", student, pair.student, of_student),
        )
    ]
    size = (CELL_INCHES * (len(headings) + 0.9), CELL_INCHES * len(rows) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), len(headings), squeeze=False)
    for axes, (label, maps) in zip(grid, rows, strict=True):
        for cell in axes:
            cell.set_xticks([])
            cell.set_yticks([])
        axes[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
        _overlay(axes[0], image, maps)
        for cell, values in zip(axes[1:], _in_order(maps, margins), strict=True):
            cell.imshow(values, cmap="viridis", interpolation="nearest")
    for cell, heading in zip(grid[0], headings, strict=True):
        cell.set_title(heading, fontsize=8)
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    write_atomically(
        path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:].lower(), metadata=metadata)
    )


def _overlay(cell: Any, image: UInt8[np.ndarray, "height width 3"], maps: StageMaps) -> None:
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    cell.imshow(image, extent=extent)
    cell.imshow(maps.attention.numpy(), cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear")


def _in_order(maps: StageMaps, margins: list[float]) -> list[np.ndarray]:
    angular_positive = [maps.by_margin[margin][part] for margin in margins for part in (1, 0)]
    return [one.numpy() for one in (maps.attention, maps.by_margin[margins[0]][2], *angular_positive)]
