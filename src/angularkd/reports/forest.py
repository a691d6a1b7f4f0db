"""A forest plot: values with their intervals, a row each, and the value that means no difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angularkd.reports.drawing import INK, MUTED, STUDENT, Plot, ticks_of_names
from angularkd.reports.names import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Interval:
    """A row of a forest plot.

    Attributes:
        label: what it is of.
        value: in the unit of the axis.
        low, high: of its 95 % interval; None where there is none.
        values: of which it is the mean, drawn as dots.
        text: at the right of the row.
        colour: of its mark.
        solid: whether the mark is filled, as that of a difference that is not put down to chance.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    text: str = ""
    colour: str = STUDENT
    solid: bool = True


def forest_plot(
    name: str, title: str, about: str, rows: Sequence[Interval], unit: str, none: float | None = None
) -> Plot:
    """Return a forest plot.

    Args:
        name: of the files.
        title: on the page.
        about: what it shows.
        rows: from top to bottom.
        unit: of the axis.
        none: where a line is drawn: the value of no difference.
    """
    return Plot(
        name, title, about, lambda figure: _draw(figure, rows, unit, none), height=0.85 + 0.34 * max(len(rows), 3)
    )


def _draw(figure: Figure, rows: Sequence[Interval], unit: str, none: float | None) -> None:
    axes = figure.subplots()
    if none is not None:
        axes.axvline(none, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    for place, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=row.colour, linewidth=2, solid_capstyle="butt")
        axes.scatter(row.values, [place] * len(row.values), s=9, color=MUTED, alpha=0.7, linewidths=0, zorder=3)
        filled = row.colour if row.solid else "white"
        axes.scatter(
            [row.value], [place], s=36, marker="s", facecolors=filled, edgecolors=row.colour, linewidths=1.5, zorder=4
        )
    ticks_of_names(axes, [short(row.label, 22) for row in rows])
    for tick in axes.get_yticklabels():
        tick.set_color(INK)
    if any(row.text for row in rows):
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(rows)), [row.text for row in rows])
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
    axes.margins(x=0.08)
    axes.set_xlabel(unit)
