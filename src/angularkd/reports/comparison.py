"""The page of several runs side by side: their accuracy with intervals, their curves, their cost, and where their options differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from angularkd.metrics import METRICS, format_metric
from angularkd.reports.costs import Point, cost_plots
from angularkd.reports.curves import compared_curves
from angularkd.reports.drawing import SERIES
from angularkd.reports.forest import Interval, forest_plot
from angularkd.reports.names import percent, short
from angularkd.reports.observing import Networks
from angularkd.reports.outcome import Figure, Outcome, interval, interval_text
from angularkd.reports.page import Page, Section, Table
from angularkd.reports.record import Record
from angularkd.reports.single import Draw
from angularkd.reports.together import sections_of_networks

SHOWN_METRICS = ("accuracy", "nll", "ece", "ece_calibrated", "agreement")


def comparison_page(
    records: Sequence[Record], opened: Sequence[tuple[Networks | None, str]], draw: Draw, version: str
) -> Page:
    """Return the page of several runs.

    Args:
        records: what they left, in the order that they are given in.
        opened: the networks of the first of them, or None, and what of them is missing, and why.
        draw: turns plots into figures.
        version: of this program.
    """
    runs = labelled(records)
    found = dict(zip(runs, opened, strict=False))
    forest = forest_plot(
        "runs",
        "Test accuracy",
        "Of the last epoch's students, with 95 % intervals for the number of test images. They say nothing of other seeds.",
        [_row(label, record, number) for number, (label, record) in enumerate(runs.items())],
        "accuracy, %",
    )
    points = [
        Point(label, record.metrics["accuracy"], record.results["images"], _costs(record))
        for label, record in runs.items()
    ]
    sections = [
        Section("accuracy", "Accuracy and cost", figures=draw([forest, *compared_curves(runs), *cost_plots(points)])),
        Section("numbers", "Numbers", tables=[_numbers(runs)]),
        *sections_of_networks(runs, found, draw, same_images=_same_images(records)),
        _differences(runs),
        Section("folders", "Folders", notes=[f"{label}: `{record.path}`" for label, record in runs.items()]),
    ]
    return Page(
        f"{len(runs)} runs side by side", _lead(records), _outcome(runs), sections, f"Made by angularkd {version}."
    )


def labelled(records: Sequence[Record]) -> dict[str, Record]:
    """Return the runs by a label each: the names of their folders, with those of the folders around them where these are equal."""
    for depth in range(1, max(len(record.path.absolute().parts) for record in records)):
        labels = ["/".join(record.path.absolute().parts[-depth:]) for record in records]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, records, strict=True))
    return {f"{number}. {record.path}": record for number, record in enumerate(records, start=1)}


def _row(label: str, record: Record, number: int) -> Interval:
    accuracy = record.metrics["accuracy"]
    low, high = interval(accuracy, record.results["images"])
    return Interval(
        label, 100 * accuracy, 100 * low, 100 * high, text=f"{100 * accuracy:.1f}", colour=SERIES[number % len(SERIES)]
    )


def _costs(record: Record) -> dict[str, float]:
    costs = {}
    if record.results.get("parameters"):
        costs["parameters, millions"] = record.results["parameters"] / 1e6
    if record.results.get("seconds"):
        costs["training, minutes"] = record.results["seconds"] / 60
    return costs


def _outcome(runs: Mapping[str, Record]) -> Outcome:
    images = {record.results["images"] for record in runs.values()}
    best = max(runs, key=lambda label: runs[label].metrics["accuracy"])
    worst = min(runs, key=lambda label: runs[label].metrics["accuracy"])
    top, bottom = runs[best].metrics["accuracy"], runs[worst].metrics["accuracy"]
    same = _same_images(list(runs.values()))
    where = f"on {images.pop():,} test images" if len(images) == 1 else "each on its own test images"
    others = (
        f"the others lie between {percent(bottom)} and it"
        if len(runs) > 2
        else f"{short(worst, 40)} reaches {percent(bottom)}"
    )
    sentence = f"Of {len(runs)} runs, {short(best, 40)} reaches the highest accuracy, {percent(top)} {where}; {others}."
    evidence = f"95 % interval of the first, for its number of test images: {interval_text(top, runs[best].results['images'])}. "
    evidence += (
        "One run each says little of the methods: a study repeats them with several seeds, and tests the differences."
    )
    if not same:
        evidence += " These runs are of different data, or of different splits of it, so that their accuracies cannot be compared."
    figures = [
        Figure(
            percent(record.metrics["accuracy"]),
            short(label, 24),
            interval_text(record.metrics["accuracy"], record.results["images"]),
        )
        for label, record in list(runs.items())[:8]
    ]
    return Outcome(sentence, evidence, figures)


def _same_images(records: Sequence[Record]) -> bool:
    """Return whether all runs were measured on the same images, as far as their options say it."""
    asked = {
        (str(record.config.get("data")), record.config.get("split_seed"), record.results["images"])
        for record in records
    }
    return len(asked) == 1


def _lead(records: Sequence[Record]) -> str:
    data = list(dict.fromkeys(str(record.config.get("data", "?")) for record in records))
    return f"On {' and '.join(f'`{short(name, 60)}`' for name in data[:3])}{' and others' if len(data) > 3 else ''}."


def _numbers(runs: Mapping[str, Record]) -> Table:
    shown = [name for name in SHOWN_METRICS if any(name in record.metrics for record in runs.values())]
    columns = [
        "run",
        "student",
        "objective",
        *(name.replace("_", " ") for name in shown),
        "selected epoch",
        "parameters",
        "seconds",
    ]
    return Table(columns, [_cells(label, record, shown) for label, record in runs.items()], words=frozenset({1, 2}))


def _cells(label: str, record: Record, shown: Sequence[str]) -> list[str]:
    metrics, results = record.metrics, record.results
    selected = results["metrics"].get("selected epoch", {}).get("accuracy")
    return [
        short(label, 60),
        short(record.student, 40),
        short(" + ".join(record.objective), 60),
        *(format_metric(name, metrics[name]) if name in metrics and name in METRICS else "" for name in shown),
        f"{selected:.2%} ({results.get('selected_epoch', '?')})" if selected is not None else "",
        f"{results.get('parameters', 0):,}",
        f"{results.get('seconds', 0):,.0f}",
    ]


def _differences(runs: Mapping[str, Record]) -> Section:
    """Return the options in which the runs differ."""
    first, *others = runs.values()
    names = [name for name in first.config if all(name in record.config for record in others)]
    values = {name: [_value(record.config.get(name)) for record in runs.values()] for name in names}
    rows = [[name, *texts] for name, texts in values.items() if len(set(texts)) > 1]
    table = Table(["option", *(short(label, 24) for label in runs)], rows, words=frozenset(range(1, len(runs) + 1)))
    text = f"Of the {len(names)} options that all of them have; the others are equal."
    return Section("options", "Options that differ", text, tables=[table] if rows else [])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items())
    return "" if value is None else f"{value:g}" if isinstance(value, float) else short(value, 60)
