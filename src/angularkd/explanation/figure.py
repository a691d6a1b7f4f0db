"""Draws figures by matplotlib, from numbers to a file; nothing appears on a screen."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from angularkd.errors import InputError
from angularkd.explanation.maps import Explanation, StageMaps
from angularkd.system.files import write_atomically

FORMATS = (".png", ".svg", ".pdf")
CELL_INCHES, LABEL_INCHES = 1.9, 0.9
LABEL_CHARACTERS = 18
HEAT = "inferno"
OPACITY = 0.6
"""Of the heat over the photograph."""
GAMMA = 0.5
"""Power of the values by which they are coloured, so that one bright position does not leave all others dark."""


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
    caption: str,
    parts: bool = False,
) -> None:
    """Draw where teacher and student look in an image, a column for each stage: both attention maps, and where they differ.

    Within a stage all three are on one scale, from nothing to the strongest position of either network, over the photograph.

    Args:
        path: of the file, with one of the endings in FORMATS.
        explanation: what to draw.
        image: [height, width, 3].
        teacher: the name of the teacher.
        student: the name of the student.
        caption: what stands below the figure.
        parts: whether the negative, positive and angular maps follow, a row for each network and margin.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [f"teacher\n{teacher}", f"student\n{student}", "where they\ndiffer"]
    more = _parts(explanation) if parts else []
    columns = len(explanation.pairs)
    lines = textwrap.wrap(caption, int(15 * CELL_INCHES * (columns + 1) + 8))
    width = LABEL_INCHES + CELL_INCHES * (columns + 1) + 0.6
    figure = Figure(
        figsize=(width, CELL_INCHES * (len(rows) + len(more)) + 0.9 + 0.17 * len(lines)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows) + len(more), columns + 1, squeeze=False)
    for cell in grid.flat:
        cell.set_xticks([])
        cell.set_yticks([])
    for cell in grid[:, 0]:
        cell.set_axis_off()
    grid[0, 0].imshow(image)
    grid[0, 0].set_title("the image", fontsize=9)
    for number, (axes, pair, both, alike) in enumerate(
        zip(grid.T[1:], explanation.pairs, explanation.stages, explanation.alike, strict=True), start=1
    ):
        axes[0].set_title(f"stage {number}: {pair.teacher.height}x{pair.teacher.width}", fontsize=9)
        heat = _draw_stage(axes, image, both)
        axes[0].set_xlabel(pair.teacher.name, fontsize=7)
        axes[1].set_xlabel(pair.student.name, fontsize=7)
        axes[2].set_xlabel(f"alike: {alike:.2f}", fontsize=9)
    for axes, label in zip(grid, [*rows, *(label for label, _ in more)], strict=True):
        axes[1].set_ylabel(_folded(label), fontsize=8, rotation=0, ha="right", va="center")
    for axes, (_, maps) in zip(grid[len(rows) :], more, strict=True):
        for cell, values in zip(axes[1:], maps, strict=True):
            cell.imshow(values, cmap="viridis", interpolation="nearest")
    bar = figure.colorbar(heat, ax=grid[: len(rows), :].ravel().tolist(), shrink=0.5, ticks=[0, 1], aspect=30)
    bar.ax.set_yticklabels(["nothing", "the stage's\nstrongest"], fontsize=8)
    figure.supxlabel("\n".join(lines), fontsize=9, ha="left", x=0.01)
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    write_atomically(
        path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:].lower(), metadata=metadata)
    )


def _draw_stage(axes: Any, image: UInt8[np.ndarray, "height width 3"], both: tuple[StageMaps, StageMaps]) -> Any:
    """Draw the two attention maps of a stage, and their difference, on one scale; return what the scale's bar is made of."""
    from matplotlib.colors import PowerNorm

    teacher, student = (maps.attention.numpy() for maps in both)
    strongest = max(float(teacher.max()), float(student.max())) or 1.0
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    grey = image.mean(axis=2)
    for cell, values in zip(axes, (teacher, student, np.abs(student - teacher)), strict=False):
        cell.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent)
        heat = cell.imshow(
            values / strongest,
            cmap=HEAT,
            norm=PowerNorm(GAMMA, 0, 1),
            alpha=OPACITY,
            extent=extent,
            interpolation="bilinear",
        )
    return heat


def _parts(explanation: Explanation) -> list[tuple[str, list[np.ndarray]]]:
    """Return the other maps of AMD: a label, and the map of each stage."""
    rows = []
    for margin in explanation.distance:
        for number, name in ((2, "negative n"), (1, "positive ψ"), (0, "angular G")):
            if name == "negative n" and margin != next(iter(explanation.distance)):
                continue  # which has no margin
            label = name if number == 2 else f"{name}\nm = {margin:g}"
            for which, role in enumerate(("teacher", "student")):
                maps = [stage[which].by_margin[margin][number].numpy() for stage in explanation.stages]
                rows.append((f"{role}\n{label}", maps))
    return rows


def _folded(label: str) -> str:
    lines = label.replace("/", "/\n").splitlines()
    return "\n".join(part for line in lines for part in textwrap.wrap(line, LABEL_CHARACTERS))
