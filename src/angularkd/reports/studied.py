"""The page of a study: its table with intervals drawn, what seeds say, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from angularkd.reports.drawing import SERIES, STUDENT, TEACHER
from angularkd.reports.forest import Interval, forest_plot
from angularkd.reports.names import clean, percent, points, short
from angularkd.reports.outcome import Figure, Outcome
from angularkd.reports.page import Code, Page, Section, Table
from angularkd.reports.single import Draw
from angularkd.studies import CAPTION, RESULTS, Row, cells, notes, parts

TEACHERS = "teacher"


def study_page(
    name: str, lines: Sequence[Mapping[str, Any]], rows: Sequence[Row], draw: Draw, study_text: str, version: str
) -> Page:
    """Return the page of a study.

    Args:
        name: of the study.
        lines: of its results.jsonl, one a cell.
        rows: of its table.
        draw: turns plots into figures.
        study_text: its file, which repeats it.
        version: of this program.
    """
    known = [row for row in rows if row.accuracy is not None]
    figures = []
    for number, (place, group) in enumerate(_groups(known).items()):
        figures += draw(_plots(place, group, number))
    failed = [
        f"failed: {_named(line)}: {clean(line.get('error') or '')}" for line in lines if line["status"] == "failed"
    ]
    tables = [
        Table(
            names,
            [cells(row, names) for row in rows if title == RESULTS or title in row.differences],
            "Results" if title == RESULTS else f"Difference to {title}",
            frozenset(range(names.index("objective") + 1)),
        )
        for title, names in parts(rows).items()
    ]
    sections = [
        Section("intervals", "What the seeds say", figures=figures),
        Section("table", "Table", CAPTION, tables=tables, notes=[*notes(rows), *failed]),
        Section(
            "repeat",
            "How to repeat it",
            "Save the study as `study.yaml`. What is done is not run again.",
            tables=[_made_with(lines)],
            codes=[Code("Command", "angularkd study study.yaml"), Code("study.yaml", study_text, folded=True)]
            if study_text
            else [],
        ),
    ]
    finished = sum(line["status"] == "finished" for line in lines)
    lead = f"{finished:,} of {len(lines):,} cells that were run are finished."
    return Page(f"Study {name}", lead, _outcome(known), sections, f"Made by angularkd {version}.")


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by pair and what is varied, as text."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        vary = ", ".join(f"{name} {value}" for name, value in row.vary.items())
        found.setdefault(f"{row.pair}{f', {vary}' if vary else ''}", []).append(row)
    return found


def _plots(place: str, rows: Sequence[Row], number: int) -> list[Any]:
    plots = []
    suffix = f"_{number + 1}" if number else ""
    values = [
        Interval(
            _label(row),
            100 * row.accuracy.mean,
            values=tuple(100 * value for value in row.accuracy.values),
            text=f"{100 * row.accuracy.mean:.1f}",
            colour=TEACHER if row.objective.startswith(TEACHERS) else STUDENT,
        )
        for row in rows
        if row.accuracy is not None
    ]
    plots.append(
        forest_plot(
            f"accuracy{suffix}",
            f"Test accuracy: {short(place, 60)}",
            "A dot a seed; squares are their means.",
            values,
            "accuracy, %",
        )
    )
    for reference in dict.fromkeys(name for row in rows for name in row.differences):
        differences = [
            Interval(
                _label(row),
                100 * gap.mean,
                None if gap.low is None else 100 * gap.low,
                None if gap.high is None else 100 * gap.high,
                text=points(gap.mean),
                colour=SERIES[2],
                solid=gap.significant,
            )
            for row in rows
            if (gap := row.differences.get(reference)) is not None
        ]
        plots.append(
            forest_plot(
                f"to_{reference}{suffix}",
                f"Difference to {reference}: {short(place, 60)}",
                "Paired by seed, with 95 % intervals. Filled squares are significant after Holm's correction; the others can be chance.",
                differences,
                "points of accuracy",
                0.0,
            )
        )
    return plots


def _label(row: Row) -> str:
    settings = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.settings.items()
    )
    return f"{row.objective} ({settings})" if settings else row.objective


def _outcome(rows: Sequence[Row]) -> Outcome:
    """Return what a study found, of its first pair: the best objective, and whether its difference to the baseline is one."""
    students = [row for row in rows if not row.objective.startswith(TEACHERS)]
    if not students:
        return Outcome("No student of this study is finished yet.", "", [])
    place, group = next(iter(_groups(students).items()))
    best = max(group, key=lambda row: row.accuracy.mean if row.accuracy is not None else 0.0)
    assert best.accuracy is not None
    seeds = len(best.seeds)
    sentence = (
        f"Of {len(group)} objectives for {short(place, 60)}, {_label(best)} is best: {percent(best.accuracy.mean, 2)} of the test images, "
        f"mean of {seeds} seed{'s' if seeds != 1 else ''}"
    )
    gap = best.differences.get("scratch")
    if gap is not None and gap.low is not None and gap.high is not None:
        verdict = "which is not chance alone" if gap.significant else "which may be chance"
        sentence += f", {points(gap.mean)} points to training without a teacher, {verdict}"
    elif gap is not None:
        sentence += f", {points(gap.mean)} points to training without a teacher"
    figures = [
        Figure(
            percent(row.accuracy.mean),
            short(_label(row), 30),
            f"± {100 * row.accuracy.std:.2f}, {len(row.seeds)} seeds" if row.accuracy.std is not None else "one seed",
        )
        for row in group[:8]
        if row.accuracy is not None
    ]
    evidence = "Last epoch's students; the test images were read once a run, at its end. "
    if gap is not None and gap.low is not None and gap.high is not None:
        evidence += f"95 % interval of the difference: {points(gap.low)} to {points(gap.high)} points. "
    evidence += "The best of several is best by some luck, too: its own mean flatters it."
    return Outcome(f"{sentence}.", evidence, figures)


def _named(line: Mapping[str, Any]) -> str:
    return clean(f"{line['pair']}, {line['objective']}, seed {line['seed']}")


def _made_with(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Return the versions and the hardware of the cells, each with the number of cells that it made."""
    counts: dict[tuple[str, str], int] = {}
    for line in lines:
        for kind in ("versions", "hardware"):
            for name, value in (line.get(kind) or {}).items():
                if value is not None:
                    counts[name, str(value)] = counts.get((name, str(value)), 0) + 1
    rows = [[name, clean(value), f"{cells:,}"] for (name, value), cells in counts.items()]
    return Table(["made with", "", "cells"], rows, words=frozenset({1}))
