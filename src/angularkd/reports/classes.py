"""Classes: which the student is better and worse at than its teacher, and which it takes for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64

from angularkd.reports.drawing import INK, MUTED, STUDENT, TEACHER, Plot, legend, ticks_of_names
from angularkd.reports.names import points, short
from angularkd.reports.observing import Observed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 16
"""Classes in the figure: of more, those with the largest losses and gains."""
CONFUSIONS = 8


@dataclass(frozen=True)
class Confusion:
    """Images of one class that the student takes for another."""

    truth: str
    said: str
    count: int
    images: int


def class_plots(observed: Observed) -> list[Plot]:
    """Return the figure of the share of each class that student and teacher recognise; none where no class has an image."""
    present = np.unique(observed.labels)
    if not len(present):
        return []
    student = recalls(observed.student.predicted, observed)
    teacher = None
    if observed.both_classify:
        assert observed.teacher is not None
        teacher = recalls(observed.teacher.predicted, observed)
    gains = student - teacher if teacher is not None else student
    order = present[np.argsort(gains[present], kind="stable")]
    shown = np.concatenate([order[: MOST_BARS // 2], order[-MOST_BARS // 2 :]]) if len(order) > MOST_BARS else order
    some = f" Of {len(order)} classes, the {MOST_BARS // 2} on either end are drawn." if len(order) > MOST_BARS else ""
    about = (
        "The share of each class's test images that is recognised, sorted by what the student gains on its teacher, in points on the right."
        if teacher is not None
        else "The share of each class's test images that is recognised."
    )
    return [
        Plot(
            "classes",
            "Gains and losses by class",
            f"{about} On {observed.which}.{some}",
            lambda figure: _draw(figure, shown, student, teacher, observed.classes),
            height=1.1 + 0.24 * len(shown),
        )
    ]


def recalls(predicted: Int64[np.ndarray, " images"], observed: Observed) -> Float[np.ndarray, " classes"]:
    """Return the share of each class's images that is predicted as such; NaN for a class without images."""
    matrix = _confusion(predicted, observed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.diag(matrix) / matrix.sum(axis=1)


def confusions(observed: Observed) -> list[Confusion]:
    """Return the most frequent mistakes of the student."""
    matrix = _confusion(observed.student.predicted, observed)
    mistakes = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(matrix)) for place in places]
    return [
        Confusion(
            short(observed.classes[truth], 40),
            short(observed.classes[said], 40),
            int(mistakes[truth, said]),
            int(matrix[truth].sum()),
        )
        for truth, said in pairs
        if mistakes[truth, said]
    ]


def _confusion(predicted: Int64[np.ndarray, " images"], observed: Observed) -> Int64[np.ndarray, "classes classes"]:
    """Return the number of images by class and predicted class."""
    classes = len(observed.classes)
    return np.bincount(observed.labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _draw(
    figure: Figure, shown: np.ndarray, student: np.ndarray, teacher: np.ndarray | None, classes: tuple[str, ...]
) -> None:
    axes = figure.subplots()
    places = np.arange(len(shown))
    if teacher is not None:
        for place, index in enumerate(shown):
            ends = [100 * teacher[index], 100 * student[index]]
            axes.plot(ends, [place, place], color=MUTED, linewidth=1.4, alpha=0.6, zorder=1)
        axes.scatter(
            100 * teacher[shown],
            places,
            s=70,
            facecolors="none",
            edgecolors=TEACHER,
            linewidths=1.6,
            label="teacher",
            zorder=2,
        )
    axes.scatter(100 * student[shown], places, s=24, color=STUDENT, label="student", zorder=3)
    ticks_of_names(axes, [short(classes[index], 20) for index in shown])
    for tick in axes.get_yticklabels():
        tick.set_color(INK)
    if teacher is not None:
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, [points(student[index] - teacher[index]) for index in shown])
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        legend(figure, axes)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("recognised, %")
