"""The table of a study as text: what a terminal, Markdown and LaTeX show, and a CSV file with the numbers in full."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from angularkd.errors import InputError
from angularkd.studies.statistics import MOST_SEEDS, Difference, Sample
from angularkd.studies.summary import BASELINES, TEACHER, Row, once

CAPTION = (
    "Accuracy on the test images in %, mean ± sample standard deviation over the seeds, of the last epoch and of the epoch selected on "
    "validation images. Differences in points, paired by seed, with 95 % interval (Student's t; of this comparison alone); p of the "
    "paired t test, two-sided, with Holm's correction over the objectives, so that an interval may leave out 0 where p says nothing; "
    "seeds: how many a difference of that size and spread needs (80 % power), without the correction."
)
TEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "±": r"$\pm$",
    "→": r"$\to$",
    "->": r"$\to$",
    "<": r"$<$",
    ">": r"$>$",
}
RESULTS = "results"
"""The part of a table that holds no differences."""


def parts(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the columns that have something to say of some row: RESULTS, and by baseline those of the differences to it."""
    first = ["pair"] if len({row.pair for row in rows}) > 1 else []
    place = [*first, *dict.fromkeys(name for row in rows for name in row.vary), "objective"]
    compared = [name for name in BASELINES if any(name in row.differences for row in rows)]
    results = {RESULTS: [*place, "n", "accuracy", "selected", "time"]}
    return results | {name: [*place, f"to {name}", f"p ({name})", f"seeds ({name})"] for name in compared}


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns of all parts, each once."""
    return list(dict.fromkeys(name for names in parts(rows).values() for name in names))


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """Return a row as text, a cell for each of these columns."""
    known = {
        "pair": row.pair,
        **{name: value_text(value) for name, value in row.vary.items()},
        "objective": named(row),
        "n": f"{len(row.seeds)}" + (f" ({row.failed} failed)" if row.failed else ""),
        "accuracy": _percent(row.accuracy),
        "selected": _percent(row.selected),
        "time": f"{row.seconds.mean:.1f} s" if row.seconds is not None else "",
    }
    for name, gap in row.differences.items():
        known |= {f"to {name}": _points(gap), f"p ({name})": _p(gap), f"seeds ({name})": _seeds(gap)}
    return [known.get(name, "") for name in names]


def named(row: Row) -> str:
    """Return an objective with the settings that were chosen for it."""
    settings = ", ".join(f"{name}={value_text(value)}" for name, value in row.settings.items())
    return f"{row.objective} ({settings})" if settings else row.objective


def value_text(value: Any) -> str:
    """Return a value of an option as a table shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what a reader of the table has to know beside it."""
    found = []
    searched = {row.objective: row for row in rows if row.trials}
    if searched:
        trials = ", ".join(f"{name} {row.trials} ({row.trial_seconds:.0f} s)" for name, row in searched.items())
        found.append(f"settings tried on validation images, with other seeds: {trials}; the others have none to choose")
    taught = {row.pair: row.teacher.mean for row in rows if row.teacher is not None}
    trained = {row.pair for row in rows if row.objective == TEACHER}
    if given := [f"{pair} {100 * mean:.2f}" for pair, mean in taught.items() if pair not in trained]:
        found.append(f"the teacher's accuracy on the same test images in %: {', '.join(given)}")
    failed = sum(row.failed for row in rows)
    if failed:
        found.append(f"{failed} runs failed and are not in the figures; the study's next call tries them again")
    if any(len(row.seeds) < 2 for row in rows if row.accuracy is not None and not row.objective.startswith("teacher")):
        found.append("of a single seed there is no spread and no interval")
    return [*found, *plan_notes(rows)]


def plan_notes(rows: Sequence[Row]) -> list[str]:
    """Return what the plans of the runs note: once where it is said of all pairs, else once a pair; with objectives where of some."""
    by_pair: dict[str, dict[str, str]] = {}
    for pair in dict.fromkeys(row.pair for row in rows):
        noted = {
            (row.objective, note): text for row in rows if row.pair == pair for note, text in once(row.notes).items()
        }
        planned = dict.fromkeys(objective for objective, _ in noted)
        found = by_pair.setdefault(pair, {})
        for which in dict.fromkeys(note for _, note in noted):
            of = {objective: text for (objective, note), text in noted.items() if note == which}
            about = f" ({', '.join(of)})" if len(of) < len(planned) else ""
            found[about + which] = f"{about}: {next(iter(of.values()))}"
    pairs = [pair for pair, found in by_pair.items() if found]
    shared = (
        [note for note in by_pair[pairs[0]] if all(note in by_pair[pair] for pair in pairs)] if len(pairs) > 1 else []
    )
    return [
        *(f"all pairs{by_pair[pairs[0]][note]}" for note in shared),
        *(f"{pair}{text}" for pair in pairs for note, text in by_pair[pair].items() if note not in shared),
    ]


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, its notes below it."""
    names = columns(rows)
    lines = [names, ["---"] * len(names), *(cells(row, names) for row in rows)]
    table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return f"{table}\n{CAPTION}\n" + "".join(f"\n{note}\n" for note in notes(rows))


def as_latex(rows: Sequence[Row]) -> str:
    """Return the table in LaTeX, for the package booktabs."""
    names = columns(rows)
    body = "".join(f"    {' & '.join(map(_tex, cells(row, names)))} \\\\\n" for row in rows)
    return (
        f"\\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}\n    \\toprule\n    {' & '.join(map(_tex, names))} \\\\\n    \\midrule\n"
        f"{body}    \\bottomrule\n\\end{{tabular}}\n% {_tex(CAPTION)}\n"
    )


def as_csv(rows: Sequence[Row]) -> str:
    """Return every number of the rows in full, as CSV; shares are 0 to 1."""
    varied = list(dict.fromkeys(name for row in rows for name in row.vary))
    lines = [_numbers(row, varied) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    written = io.StringIO()
    writer = csv.DictWriter(written, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


FORMS: dict[str, Callable[[Sequence[Row]], str]] = {"markdown": as_markdown, "csv": as_csv, "latex": as_latex}
"""How a table can be written to a file, by the name of the option."""


def table_text(rows: Sequence[Row], form: str = "markdown") -> str:
    """Return the table in one of FORMS.

    Raises:
        InputError: for another form.
    """
    if form not in FORMS:
        raise InputError(f"a table is written as {', '.join(FORMS)}, not as {form!r}")
    return FORMS[form](rows)


def _numbers(row: Row, varied: Sequence[str]) -> dict[str, Any]:
    line: dict[str, Any] = {"pair": row.pair, **{name: row.vary.get(name, "") for name in varied}}
    settings = " ".join(f"{name}={value}" for name, value in row.settings.items())
    line |= {"objective": row.objective, "settings": settings, "seeds": " ".join(map(str, row.seeds))}
    line |= {"n": len(row.seeds), "failed": row.failed}
    for name in ("accuracy", "selected", "seconds"):
        sample: Sample | None = getattr(row, name)
        if sample is not None:
            line |= {name: sample.mean, f"{name} std": "" if sample.std is None else sample.std}
    for name in BASELINES:
        gap = row.differences.get(name)
        if gap is not None:
            values = {"": gap.mean, " low": gap.low, " high": gap.high, " p": gap.p, " p holm": gap.p_holm}
            values |= {" n": gap.n, " seeds needed": gap.seeds_needed}
            line |= {f"to {name}{what}": "" if value is None else value for what, value in values.items()}
    return {**line, "trials": row.trials, "trial seconds": row.trial_seconds}


def _percent(sample: Sample | None) -> str:
    if sample is None:
        return ""
    return f"{100 * sample.mean:.2f}" + ("" if sample.std is None else f" ± {100 * sample.std:.2f}")


def _points(gap: Difference) -> str:
    interval = "" if gap.low is None or gap.high is None else f" [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    return f"{100 * gap.mean:+.2f}{interval}"


def _p(gap: Difference) -> str:
    if gap.p_holm is None:
        return ""
    shown = "<0.0001" if gap.p_holm < 1e-4 else f"{gap.p_holm:.4f}"
    return f"{shown}{' *' if gap.significant else ''}"


def _seeds(gap: Difference) -> str:
    if gap.seeds_needed is not None:
        return f"{gap.seeds_needed:,}"
    return f">{MOST_SEEDS:,}" if gap.low is not None else ""


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, sorted(TEX, key=len, reverse=True))), lambda found: TEX[found[0]], text)
