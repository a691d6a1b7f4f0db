"""Curves of training: the loss and its terms, accuracy, and the learning rate, by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from angularkd.reports.drawing import BASELINE, INK, MUTED, SERIES, STUDENT, TEACHER, Plot, legend, logarithmic
from angularkd.reports.names import short
from angularkd.reports.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_TERMS = {"epoch", "step", "lr", "loss", "train_accuracy", "images_per_second"}
FEW_EPOCHS = 12
"""Up to so many, each epoch gets a mark."""


def curves(record: Record) -> list[Plot]:
    """Return the figures of a run's epochs; none where they are not known."""
    rows = record.history
    if not rows:
        return []
    return [
        Plot(
            "accuracy",
            "Accuracy by epoch",
            "The student on training images (augmented, while it learns) and on validation images"
            + (", beside its teacher on validation images." if _teachers(record) is not None else "."),
            lambda figure: _accuracy(figure, record),
        ),
        Plot(
            "loss",
            "Loss and learning rate by epoch",
            "Means over the training images: the whole loss and its weighted terms. Below, the learning rate at the last step.",
            lambda figure: _losses(figure, rows),
        ),
    ]


def compared_curves(records: Mapping[str, Record]) -> list[Plot]:
    """Return the validation accuracy of several runs, by their labels, in one figure."""
    if not any(record.history for record in records.values()):
        return []

    def draw(figure: Figure) -> None:
        axes = _by_epoch(figure, max(len(record.history) for record in records.values()))
        for number, (label, record) in enumerate(records.items()):
            colour = SERIES[number % len(SERIES)]
            _line(axes, record.history, "val_accuracy", short(label), colour, 100, dashed=number >= len(SERIES))
        axes.set_ylabel("validation accuracy, %")
        legend(figure, axes)

    return [Plot("accuracy", "Validation accuracy by epoch", "Of every run, on its own validation images.", draw)]


def _accuracy(figure: Figure, record: Record) -> None:
    axes = _by_epoch(figure, len(record.history))
    _line(axes, record.history, "train_accuracy", "training", STUDENT, 100, dashed=True)
    _line(axes, record.history, "val_accuracy", "validation", STUDENT, 100)
    teacher = _teachers(record)
    if teacher is not None:
        axes.axhline(100 * teacher, color=TEACHER, label="teacher, validation")
    axes.set_ylabel("accuracy, %")
    legend(figure, axes, 3)


def _losses(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    _set_epochs(below, len(rows))
    terms = [name for name in rows[-1] if name not in NO_TERMS and not name.startswith("val_")]
    _line(axes, rows, "loss", "sum" if len(terms) > 1 else "loss", INK, 1)
    for number, name in enumerate(terms if len(terms) > 1 else ()):
        colour = (TEACHER, STUDENT, BASELINE, *SERIES[3:])[number % len(SERIES)]
        _line(axes, rows, name, short(name), colour, 1, dashed=True)
    positive = all(row[name] > 0 for row in rows for name in ("loss", *terms) if isinstance(row.get(name), float))
    if positive:
        logarithmic(axes.yaxis)
    axes.set_ylabel("loss")
    legend(figure, axes, min(len(terms) + 1, 5))
    _line(below, rows, "lr", "learning rate", MUTED, 1)
    below.set_ylim(bottom=0)
    below.set_ylabel("rate")


def _by_epoch(figure: Figure, epochs: int) -> Axes:
    axes = figure.subplots()
    _set_epochs(axes, epochs)
    return axes


def _set_epochs(axes: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlim(1 - 0.02 * epochs, epochs * 1.02 + 0.02)


def _line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    label: str,
    colour: str,
    factor: float,
    dashed: bool = False,
) -> None:
    known = [row for row in rows if isinstance(row.get(key), int | float)]
    axes.plot(
        [row["epoch"] for row in known],
        [factor * row[key] for row in known],
        label=label,
        color=colour,
        linestyle=(0, (3, 1.6)) if dashed else "-",
        marker="o" if len(rows) <= FEW_EPOCHS else "",
        markersize=3,
    )


def _teachers(record: Record) -> float | None:
    return record.plan.get("teacher_validation", {}).get("accuracy")
