"""The figures of docs/amd.md, drawn from AMDLoss's own functions into docs/figures/: python docs/figures.py [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from angularkd import AMDLoss
from angularkd.losses.amd import cosine_with_margin

MARGINS = {1.0: "#0072b2", 1.35: "#d55e00", 2.0: "#009e73"}
"""Margins and their colours, which people of all kinds of colour vision can tell apart."""
SIDES = (2, 4, 7, 8, 14, 16, 28, 32, 56)
SCALE = 64.0


def draw_margin(axes: Axes) -> None:
    """Draw the positive part for each margin, and the negative one, over the attention Q."""
    attention = torch.linspace(0, 1, 400)
    for margin, colour in MARGINS.items():
        label = f"positive, m = {margin:g}" + (" (none)" if margin == 1 else "")
        axes.plot(attention, SCALE * cosine_with_margin(attention, margin), color=colour, label=label)
    axes.plot(attention, SCALE * (1 - attention), color="#777777", linestyle="--", label="negative")
    axes.set_xlabel("attention Q of a position")
    axes.legend(frameon=False)


def draw_constant(axes: Axes) -> None:
    """Draw which share of the squared length of a map is its mean's, for the positive part and the attention, over the map's side."""
    generator = torch.Generator().manual_seed(0)
    loss = AMDLoss()
    positive, attention = [], []
    for side in SIDES:
        power = torch.empty(64, side, side).exponential_(generator=generator)
        _, psi, n = loss.maps(power)
        positive.append(_share_of_mean(psi))
        attention.append(_share_of_mean(1 - n / SCALE))
    axes.plot(SIDES, positive, "o-", color=MARGINS[1.35], label="positive part, m = 1.35")
    axes.plot(SIDES, attention, "s-", color=MARGINS[1.0], label="attention Q (m = 1)")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("side of the map in positions (P exponentially distributed)")
    axes.legend(frameon=False, loc="lower right")


def _share_of_mean(maps: torch.Tensor) -> float:
    flat = maps.flatten(1)
    return float((flat.shape[1] * flat.mean(dim=1) ** 2 / flat.square().sum(dim=1)).mean())


FIGURES = {
    "margin.svg": (draw_margin, "value"),
    "constant.svg": (draw_constant, "share of the squared length"),
}


def main(folder: Path) -> None:
    """Write every figure into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (draw, ordinate) in FIGURES.items():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel(ordinate)
        draw(axes)
        figure.savefig(folder / name, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures")
