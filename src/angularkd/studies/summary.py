"""From lines of results to rows of a table: what every objective reached, and by how much it differs from the baselines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from angularkd.studies.lines import Line
from angularkd.studies.statistics import Difference, Sample, difference, holm

SCRATCH, KD, TEACHER = "scratch", "KD", "teacher"
"""What the baselines, and the teachers that a study trains, are called."""
BASELINES = (SCRATCH, KD)
LAST, SELECTED = "last epoch", "selected epoch"
NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?%?")


@dataclass(frozen=True)
class Row:
    """What the seeds of one objective say, for one pair and one combination of what is varied.

    Attributes:
        pair, vary, objective: what was run.
        settings: what was chosen of its grid on validation images.
        seeds: those that are finished, in the order of all samples.
        failed: how many runs failed and are not finished yet, trials of its grid included.
        accuracy: of the last epoch's students on the test images, 0 to 1; None where no seed is finished.
        selected: of those of the epoch that is best on the validation images.
        seconds: of a run.
        teacher: the accuracy of the students' teacher on the same images, where it tells apart these classes.
        trials: how many settings were tried, and `trial_seconds` how long that took in all.
        differences: of `accuracy` to "scratch" and "KD", paired by seed.
        notes: of the runs' plans, trials included, each once whatever numbers it holds.
    """

    pair: str
    vary: Mapping[str, Any]
    objective: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...] = ()
    failed: int = 0
    accuracy: Sample | None = None
    selected: Sample | None = None
    seconds: Sample | None = None
    teacher: Sample | None = None
    trials: int = 0
    trial_seconds: float = 0.0
    differences: Mapping[str, Difference] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def summarise(lines: Sequence[Line]) -> list[Row]:
    """Return a row for each objective of each pair and each combination of what is varied, in the order of the lines.

    Args:
        lines: as `read_lines` returns them.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(json.dumps([line["pair"], line["vary"]], sort_keys=True), []).append(line)
    return [row for group in groups.values() for row in _compared(group)]


def once(notes: Iterable[str]) -> dict[str, str]:
    """Return notes of which no two differ in their numbers alone, the first of each, by their texts without numbers."""
    found: dict[str, str] = {}
    for note in notes:
        found.setdefault(NUMBER.sub("#", note), note)
    return found


def _compared(lines: Sequence[Line]) -> list[Row]:
    """Return the rows of one pair under equal circumstances, with the differences between them."""
    parts: dict[tuple[str, str], list[Line]] = {}
    for line in (line for line in lines if line["kind"] != "selection"):
        parts.setdefault((line["objective"], json.dumps(line["settings"], sort_keys=True)), []).append(line)
    for line in (line for line in lines if line["kind"] == "selection"):  # of an objective that has no results yet
        if line["objective"] not in {objective for objective, _ in parts}:
            parts[line["objective"], "{}"] = []
    trials = [line for line in lines if line["kind"] == "selection"]
    first = lines[0]
    rows = [
        _row(first["pair"], first["vary"], objective, json.loads(settings), part, trials)
        for (objective, settings), part in parts.items()
    ]
    for reference in BASELINES:
        rows = _with_differences(rows, reference)
    return sorted(rows, key=lambda row: _rank(row.objective))


def _rank(objective: str) -> int:
    """Return where a row stands: teachers, the baselines, and then the objectives as they come."""
    if objective.startswith(TEACHER):
        return 0
    return 1 + BASELINES.index(objective) if objective in BASELINES else 1 + len(BASELINES)


def _row(
    pair: str,
    vary: Mapping[str, Any],
    objective: str,
    settings: Mapping[str, Any],
    lines: Sequence[Line],
    trials: Sequence[Line],
) -> Row:
    done = sorted((line for line in lines if line["status"] == "finished"), key=lambda line: line["seed"])
    tried = [line for line in trials if line["objective"] == objective]
    failed = [line for line in (*lines, *tried) if line["status"] == "failed"]

    def sample(values: Sequence[float]) -> Sample | None:
        return Sample(tuple(values)) if values else None

    metrics = [line["results"].get("metrics") for line in done]
    return Row(
        pair,
        vary,
        objective,
        settings,
        seeds=tuple(line["seed"] for line in done),
        failed=len(failed),
        accuracy=sample([found[LAST]["accuracy"] for found in metrics if found]),
        selected=sample([found[SELECTED]["accuracy"] for found in metrics if found]),
        seconds=sample([line["seconds"] for line in done if line["seconds"] is not None]),
        teacher=sample([found[TEACHER]["accuracy"] for found in metrics if found and TEACHER in found]),
        trials=len({json.dumps(line["settings"], sort_keys=True) for line in tried}),
        trial_seconds=sum(line["seconds"] or 0.0 for line in tried),
        notes=tuple(
            once(
                note for line in (*done, *tried) if line["status"] == "finished" for note in line.get("notes") or ()
            ).values()
        ),
    )


def _with_differences(rows: Sequence[Row], reference: str) -> list[Row]:
    """Add the differences to one row, their p values corrected for as many rows as are compared with it."""
    found = [row for row in rows if row.objective == reference]
    if len(found) != 1:  # there is none, or it was run with several settings
        return list(rows)
    compared = {
        place: gap
        for place, row in enumerate(rows)
        if row.objective not in (reference, SCRATCH)
        and not row.objective.startswith(TEACHER)
        and (gap := difference(_by_seed(row), _by_seed(found[0]))) is not None
    }
    tested = [place for place, gap in compared.items() if gap.p is not None]
    corrected = dict(zip(tested, holm([compared[place].p or 0.0 for place in tested]), strict=True))
    return [
        replace(
            row,
            differences={**row.differences, reference: replace(compared[place], p_holm=corrected.get(place))},
        )
        if place in compared
        else row
        for place, row in enumerate(rows)
    ]


def _by_seed(row: Row) -> dict[int, float]:
    return dict(zip(row.seeds, row.accuracy.values, strict=True)) if row.accuracy is not None else {}
