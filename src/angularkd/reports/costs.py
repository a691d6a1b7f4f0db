"""Accuracy against what it costs: size, operations, latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angularkd.reports.drawing import INK, SERIES, Plot, legend, logarithmic
from angularkd.reports.names import short
from angularkd.reports.outcome import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = "oDs^vPX"
BESIDE = 1.09
"""Factor by which a mark is moved that would lie on another of the same cost."""


@dataclass(frozen=True)
class Point:
    """A network in the figure.

    Attributes:
        label: what it is called.
        accuracy: on test images.
        images: how many they were.
        costs: by the name of an axis.
        colour: of its mark; None for the next.
    """

    label: str
    accuracy: float
    images: int
    costs: dict[str, float]
    colour: str | None = None


def cost_plots(points: Sequence[Point], device: str = "") -> list[Plot]:
    """Return accuracy against each cost that two networks at least are known by, in one figure; none where there is no such."""
    axes = [
        name for name in dict.fromkeys(name for point in points for name in point.costs) if _known(points, name) > 1
    ]
    if not axes:
        return []
    where = (
        f" Latency was measured on this machine's {device}, one image at a time."
        if any("ms" in name for name in axes)
        else ""
    )
    return [
        Plot(
            "costs",
            "Accuracy against cost",
            "Bars are 95 % intervals for the number of test images; equal costs are drawn beside each other. Left and up is "
            f"better.{where}",
            lambda figure: _draw(figure, points, axes),
            height=3.2,
        )
    ]


def _known(points: Sequence[Point], name: str) -> int:
    return sum(name in point.costs for point in points)


def _draw(figure: Figure, points: Sequence[Point], names: Sequence[str]) -> None:
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(grid, names, strict=True):
        drawn: list[float] = []
        for number, point in enumerate(points):
            if name in point.costs:
                cost = point.costs[name]
                _mark(axes, point, cost * BESIDE ** drawn.count(cost), number)
                drawn.append(cost)
        axes.set_xlabel(name)
        _scale(axes, [point.costs[name] for point in points if name in point.costs])
    grid[0].set_ylabel("accuracy, %")
    legend(figure, grid[0], 3 if all(len(point.label) < 20 for point in points) else 2)


def _mark(axes: Axes, point: Point, cost: float, number: int) -> None:
    low, high = interval(point.accuracy, point.images)
    colour = point.colour or SERIES[number % len(SERIES)]
    axes.errorbar(
        [cost],
        [100 * point.accuracy],
        yerr=[[100 * (point.accuracy - low)], [100 * (high - point.accuracy)]],
        fmt=MARKS[number % len(MARKS)],
        color=colour,
        markersize=6,
        capsize=3,
        elinewidth=1.2,
        label=short(point.label, 22),
    )


def _scale(axes: Axes, costs: Sequence[float]) -> None:
    """Draw a cost from zero, or on a logarithmic axis where costs differ much."""
    from matplotlib.ticker import MaxNLocator

    if max(costs) > 8 * min(costs) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 2.2, max(costs) * 2.2)
        logarithmic(axes.xaxis)
        axes.minorticks_off()
    else:
        axes.set_xlim(0, 1.2 * max(costs))
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", colors=INK)
