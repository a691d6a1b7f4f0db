"""Reliability diagrams: whether the probabilities of a network mean what they say, before and after temperature scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from angularkd.metrics import reliability_of
from angularkd.reports.drawing import INK, MUTED, STUDENT, TEACHER, Plot
from angularkd.reports.names import percent
from angularkd.reports.observing import Observed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[str, list[Any]]
MEANING = (
    "By the probability that a network gives its answer: how many are right. On the diagonal, probabilities mean what they say; below it, "
    "the network is too sure of itself. Areas of the dots are numbers of images."
)
FITTED = " The temperature T was fitted on validation images."


def reliability_plots(observed: Observed, temperature: float | None) -> list[Plot]:
    """Return the reliability diagrams of student and teacher.

    Args:
        observed: what they gave for test images.
        temperature: of the student, fitted on validation images; None where none was.
    """
    labels = torch.from_numpy(observed.labels)
    about = f"Of {observed.which}. {MEANING}{FITTED if temperature not in (None, 1.0) else ''}"
    plots = [student_reliability(observed, temperature, "reliability", "Calibration of the student", about)]
    if observed.both_classify:
        assert observed.teacher is not None and observed.teacher.logits is not None
        of_teacher = {"as it is": reliability_of(observed.teacher.logits, labels)["equal_width"]}
        plots.append(
            Plot(
                "reliability_teacher",
                "Calibration of the teacher",
                "The same of the teacher, on the same images.",
                lambda figure: _panels(figure, of_teacher, TEACHER),
                height=3.4,
            )
        )
    return plots


def student_reliability(
    observed: Observed, temperature: float | None, name: str, title: str, about: str, colour: str = STUDENT
) -> Plot:
    """Return the reliability diagram of a student, also after temperature scaling where it has a temperature.

    Args:
        observed: what it gave for test images.
        temperature: fitted on validation images; None where none was.
        name: of the figure's files.
        title: of the figure.
        about: what the figure says below it.
        colour: of its marks.
    """
    labels, logits = torch.from_numpy(observed.labels), observed.student.logits
    assert logits is not None
    curves = {"as trained": reliability_of(logits, labels)["equal_width"]}
    if temperature not in (None, 1.0):  # of too few validation images to fit one it is 1
        curves[f"divided by T = {temperature:.2f}"] = reliability_of(logits, labels, temperature)["equal_width"]
    height = 2.75 if len(curves) > 1 else 3.4
    return Plot(name, title, about, lambda figure: _panels(figure, curves, colour), height=height)


def calibration_error(curve: Curve) -> float:
    """Return the expected calibration error that a curve shows: the mean distance from the diagonal, weighted by images."""
    images = sum(curve["count"])
    bins = zip(curve["count"], curve["confidence"], curve["accuracy"], strict=True)
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins if count) / images


def _panels(figure: Figure, curves: dict[str, Curve], colour: str) -> None:
    grid = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (title, curve) in zip(grid, curves.items(), strict=True):
        _diagram(axes, curve, colour)
        axes.set_title(f"{title}\nerror {percent(calibration_error(curve))}", fontsize=9.5)
    grid[0].set_ylabel("accuracy, %")
    figure.supxlabel("probability of the answer, %", fontsize=9.5, color=MUTED)


def _diagram(axes: Axes, curve: Curve, colour: str) -> None:
    bins = [each for each in zip(curve["confidence"], curve["accuracy"], curve["count"], strict=True) if each[2]]
    confidence, accuracy, counts = ([float(value) for value in column] for column in zip(*bins, strict=True))
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    for one, other in zip(confidence, accuracy, strict=True):
        axes.plot([100 * one, 100 * one], [100 * one, 100 * other], color=colour, linewidth=1, alpha=0.5)
    sizes = [12 + 160 * count / sum(counts) for count in counts]
    axes.scatter([100 * value for value in confidence], [100 * value for value in accuracy], s=sizes, color=colour)
    axes.set_xlim(-3, 106)
    axes.set_ylim(-3, 106)
    axes.set_aspect("equal")
    axes.set_xticks([0, 50, 100])
    axes.set_yticks([0, 50, 100])
