"""Histograms of the angles of attention maps: what AMD compares, as distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from angularkd.metrics import angular_histograms
from angularkd.reports.drawing import STUDENT, TEACHER, Plot, legend
from angularkd.reports.names import short
from angularkd.reports.observing import Observed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE_LEFT_OUT = 0.002
"""Of either end of the distributions, outside of which nothing is drawn."""
BARS = 45


def angle_plots(observed: Observed) -> list[Plot]:
    """Return the histograms of theta of teacher and student, a panel for each pair of stages; none without a teacher's maps."""
    if observed.teacher is None or not observed.student.maps:
        return []
    found = angular_histograms(observed.student.maps, observed.teacher.maps)
    panels = len(found["pairs"])
    return [
        Plot(
            "angles",
            "Angles of attention",
            "The distribution of θ = arccos Q over the positions of the attention maps of teacher and student: 90° where a "
            "position gets no attention, 0° where one position gets all. The distance is how many degrees one must be moved to become "
            "the other (Wasserstein).",
            lambda figure: _panels(figure, found, observed),
            height=1.3 + 1.15 * panels,
        )
    ]


def _panels(figure: Figure, found: dict[str, Any], observed: Observed) -> None:
    edges = np.asarray(found["edges"])
    grid = figure.subplots(len(found["pairs"]), 1, squeeze=False)[:, 0]
    for axes, pair, (_, stage), maps in zip(grid, found["pairs"], observed.stages, observed.student.maps, strict=True):
        theta = pair["theta"]
        _histogram(axes, edges, {"teacher": np.asarray(theta["teacher"]), "student": np.asarray(theta["student"])})
        size = "×".join(map(str, maps.shape[1:]))
        axes.set_title(f"{short(stage)}, {size}: {theta['distance']:.1f}° apart", loc="left", fontsize=9.5)
    legend(figure, grid[0])
    grid[-1].set_xlabel("θ, degrees")
    figure.supylabel("share of positions, %", fontsize=9.5)


def _histogram(axes: Axes, edges: np.ndarray, shares: dict[str, np.ndarray]) -> None:
    total = np.cumsum(sum(shares.values()) / len(shares))
    low = int(np.searchsorted(total, SHARE_LEFT_OUT))
    high = min(int(np.searchsorted(total, 1 - SHARE_LEFT_OUT)) + 1, len(total))
    step = max(1, (high - low) // BARS)
    high = low + -(-(high - low) // step) * step
    for (role, values), colour in zip(shares.items(), (TEACHER, STUDENT), strict=True):
        padded = np.pad(values, (0, max(0, high - len(values))))
        width = edges[1] - edges[0]
        bars = padded[low:high].reshape(-1, step).sum(axis=1)
        places = edges[0] + width * np.arange(low, high + 1, step)
        axes.stairs(100 * bars, places, color=colour, label=role, linewidth=1.5)
        axes.stairs(100 * bars, places, color=colour, alpha=0.15, fill=True)
    axes.set_ylim(bottom=0)
