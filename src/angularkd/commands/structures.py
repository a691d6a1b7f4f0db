"""What evaluate prints: metrics that are one number as a table, those of several in a form of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.commands.tables import print_metrics
from angularkd.config import with_flags
from angularkd.metrics import format_metric, row_of

MOST_CLASSES = 12
"""Number of classes up to which their whole confusion matrix is printed."""
MOST_ROWS = 20
"""Rows of a table of classes; of more the first."""
Shown = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""What is said of a table, its columns and its rows."""


def print_evaluation(results: Mapping[str, Any], json_file: str | None, console: Console) -> None:
    """Print all that `evaluate` returned, within the width of the console; what is too long for it lies in the JSON alone.

    Args:
        results: what `angularkd.evaluate` returned.
        json_file: where the JSON is, if it was written.
        console: where to print.
    """
    print_metrics(dict(results), console)
    for who, temperature in results["temperature"].items():
        console.print(f"temperature of {who}: {temperature:.4g}", highlight=False, soft_wrap=True)
    left: dict[str, None] = {}
    for who, metrics in results["metrics"].items():
        for name in (name for name in metrics if not row_of(name).is_number):
            show = SHOWN.get(name)
            if show is None:
                left[name] = None
            else:
                heading, columns, rows = show(metrics[name], results["classes"])
                console.print(f"{name} of {who}{heading}", highlight=False, soft_wrap=True)
                print_table(console, columns, rows)
    if left:
        where = f"lie in {json_file}" if json_file is not None else "are written with `json_file`"
        console.print(with_flags(f"{', '.join(left)}: curves and histograms {where}"), highlight=False, soft_wrap=True)


def _recall(recalls: Sequence[float | None], classes: Sequence[str]) -> Shown:
    """Return the classes that are found least."""
    found = sorted((recall, name) for recall, name in zip(recalls, classes, strict=True) if recall is not None)
    rows = [(name, format_metric("recall", recall)) for recall, name in found[:MOST_ROWS]]
    return f", {_first(rows, found)}lowest first", ("class", "recall"), rows


def _confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Shown:
    """Return the matrix of few classes, the most frequent mistakes of many."""
    if len(classes) <= MOST_CLASSES:
        rows = [(name, *map(str, row)) for name, row in zip(classes, counts, strict=True)]
        columns = ("class", *map(str, range(len(classes))))
        return ": a row a class, a column a predicted class, in the same order", columns, rows
    mistakes = [
        (classes[true], classes[predicted], str(count))
        for true, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    mistakes.sort(key=lambda mistake: -int(mistake[2]))
    first = mistakes[:MOST_ROWS]
    return f", {_first(first, mistakes)}most frequent mistakes first", ("class", "predicted", "images"), first


def _corruptions(accuracies: Mapping[str, Sequence[float]], _: Sequence[str]) -> Shown:
    """Return the accuracy by corruption and severity."""
    rows = [(name, *(f"{value:.1%}" for value in row)) for name, row in accuracies.items()]
    return ", by severity", ("corruption", *map(str, range(1, 6))), rows


def _timing(timings: Mapping[str, Mapping[str, float]], _: Sequence[str]) -> Shown:
    """Return times with their spread, half of the distance between the quartiles."""
    rows = [
        (batch, f"{row['median_ms']:,.2f} ± {row['spread_ms']:,.2f}", f"{row['images_per_second']:,.0f}")
        for batch, row in timings.items()
    ]
    return ", medians ± half of the distance between the quartiles", ("images at once", "ms", "images/s"), rows


SHOWN: dict[str, Callable[[Any, Sequence[str]], Shown]] = {
    "recall": _recall,
    "confusion": _confusion,
    "corruptions": _corruptions,
    "timing": _timing,
}
"""By the name of a metric of several numbers: what makes a table of its value and the names of the classes."""


def _first(shown: Sequence[Any], all_of_them: Sequence[Any]) -> str:
    return f"{len(shown)} of {len(all_of_them):,}, " if len(shown) < len(all_of_them) else ""
