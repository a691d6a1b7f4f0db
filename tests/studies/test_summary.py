"""From lines of results to rows and tables."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from rich.console import Console

from angularkd.commands.study import ConsoleStudy, print_study
from angularkd.errors import InputError
from angularkd.studies import Study, notes, summarise, table_text
from angularkd.studies.statistics import difference, holm


def line(objective: str, seed: int, accuracy: float | None, **more: object) -> dict:
    """A line of results, failed where it has no accuracy."""
    metrics = (
        {name: {"accuracy": accuracy} for name in ("last epoch", "selected epoch")} if accuracy is not None else {}
    )
    status = "finished" if accuracy is not None else "failed"
    place = {"kind": "result", "pair": "big -> small", "vary": {}, "settings": {}}
    about = {"results": {"metrics": metrics}, "seconds": 2.0 + seed, "error": None, "validation": {"accuracy": 0.5}}
    return {
        "cell": f"{objective} {seed} {more}",
        "objective": objective,
        "seed": seed,
        "status": status,
        **place,
        **about,
        **more,
    }


SCRATCH, KD, AMD = (0.90, 0.91, 0.92, 0.90), (0.92, 0.925, 0.93, 0.92), (0.93, 0.96, 0.95, 0.94)
LINES = [
    line("teacher", 0, 0.97, kind="teacher"),
    *(
        line(name, seed, value)
        for name, values in (("AMD", AMD), ("KD", KD), ("scratch", SCRATCH))
        for seed, value in enumerate(values)
    ),
]


def test_the_accuracy_of_a_teacher_that_was_given_stands_below_the_table() -> None:
    metrics = {
        name: {"accuracy": value} for name, value in {"last epoch": 0.5, "selected epoch": 0.5, "teacher": 0.8}.items()
    }
    taught = [line("KD", seed, 0.5, results={"metrics": metrics}) for seed in range(2)]
    assert "the teacher's accuracy on the same test images in %: big -> small 80.00" in table_text(summarise(taught))
    assert "teacher's accuracy" not in table_text(summarise([*taught, line("teacher", 0, 0.8, kind="teacher")]))


def test_notes_of_plans_are_said_once_a_pair() -> None:
    memorised = (
        "the teacher has memorised its training images (99.9% of 2,000 are right, and 93.1% of validation images)"
    )
    other = memorised.replace("93.1", "92.8")
    lines = [
        line("scratch", 0, 0.9, notes=[]),
        line("KD", 0, 0.9, notes=[memorised]),
        line("KD", 1, 0.9, notes=[other]),
        line("AMD", 0, 0.9, notes=[memorised, "maps of 2x2 are too small"]),
        line("AMD", 0, None, kind="selection", notes=["of a run that failed"]),
        line("KD", 0, 0.9, pair="other", notes=["the teacher is weak"]),
        *(line("DKD", 0, 0.9, pair=pair, vary={"lr": 1}, notes=["of 10 images"]) for pair in ("big -> small", "other")),
        line("AMD", 1, 0.9, pair="other"),  # of a version that kept none
    ]
    expected = [
        "all pairs (DKD): of 10 images",
        f"big -> small (KD, AMD): {memorised}",
        "big -> small (AMD): maps of 2x2 are too small",
        "other (KD): the teacher is weak",
    ]
    rows = summarise(lines)
    assert [note for note in notes(rows) if note.startswith(("all", "big", "other"))] == expected
    assert all(table_text(rows).count(note) == 1 for note in expected)
    console = Console(width=400, record=True)
    print_study(Study(None, lines), console)
    assert all(console.export_text(clear=False).count(f"note: {note}") == 1 for note in expected)


def test_a_study_says_notes_as_they_come(capsys) -> None:
    reporter = ConsoleStudy(Console(width=400))
    reporter.begin(0, 3)
    for seed, pair, right in ((0, "big -> small", 93.1), (1, "big -> small", 92.8), (0, "other", 91)):
        reporter.cell(line("KD", seed, 0.9, pair=pair, notes=[f"the teacher is weak ({right}%)"]), seed, 3, 1.0)
    reporter.end()
    said = [row for row in capsys.readouterr().out.splitlines() if row.startswith("note")]
    assert said == [
        f"note: {pair} (KD): the teacher is weak ({right}%)" for pair, right in (("big -> small", 93.1), ("other", 91))
    ]


def test_rows_hold_means_differences_and_corrected_p_values() -> None:
    rows = {row.objective: row for row in summarise(LINES)}
    assert list(rows) == ["teacher", "scratch", "KD", "AMD"], "the baselines come first"
    amd = rows["AMD"]
    assert amd.seeds == (0, 1, 2, 3) and amd.accuracy is not None and amd.seconds is not None
    assert amd.accuracy.mean == pytest.approx(np.mean(AMD)) and amd.accuracy.std == pytest.approx(np.std(AMD, ddof=1))
    assert amd.seconds.mean == 3.5
    alone = [difference(dict(enumerate(values)), dict(enumerate(SCRATCH))) for values in (KD, AMD)]
    corrected = holm([gap.p for gap in alone])
    assert [rows[name].differences["scratch"].p_holm for name in ("KD", "AMD")] == pytest.approx(corrected)
    assert amd.differences["scratch"].p == pytest.approx(alone[1].p)
    assert set(amd.differences) == {"scratch", "KD"} and set(rows["KD"].differences) == {"scratch"}
    assert not rows["scratch"].differences and not rows["teacher"].differences
    assert amd.differences["KD"].p_holm == pytest.approx(amd.differences["KD"].p), "it alone is compared with KD"


def test_failed_runs_are_counted_and_missing_seeds_are_left_out_of_the_pairs() -> None:
    (row,) = (
        row
        for row in summarise([*LINES, line("AT", 0, 0.9), line("AT", 1, None), line("AT", 7, 0.8)])
        if row.objective == "AT"
    )
    assert row.failed == 1 and row.seeds == (0, 7)
    assert row.differences["scratch"].n == 1 and row.differences["scratch"].p is None
    (row,) = summarise([line("AT", 0, None)])
    assert row.accuracy is None and row.failed == 1


def test_trials_are_counted_and_are_in_no_figure() -> None:
    trials = [
        line("AMD", 1000, None, kind="selection", status="finished", settings={"amd": weight}) for weight in (1, 2)
    ]
    rows = {row.objective: row for row in summarise([*LINES, *trials])}
    assert rows["AMD"].trials == 2 and rows["AMD"].trial_seconds == 2 * 1002 and rows["AMD"].seeds == (0, 1, 2, 3)
    only = summarise(trials)
    assert [row.objective for row in only] == ["AMD"] and only[0].accuracy is None


def test_what_is_varied_and_each_pair_is_compared_with_its_own_baseline() -> None:
    lines = [
        line(name, seed, base + gap + seed / 1000, vary={"lr": rate}, pair=pair)
        for pair in ("a", "b")
        for rate, base in ((0.1, 0.5), (0.01, 0.8))
        for name, gap in (("scratch", 0.0), ("AMD", 0.01 if pair == "a" else 0.02))
        for seed in range(2)
    ]
    rows = [row for row in summarise(lines) if row.objective == "AMD"]
    assert [round(row.differences["scratch"].mean, 6) for row in rows] == [0.01, 0.01, 0.02, 0.02]
    assert "| pair | lr | objective |" in table_text(rows)


def test_a_null_study_calls_nothing_significant() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0.9, 0.01, 6)
    lines = [
        line(name, seed, float(base[seed] + rng.normal(0, 0.003)))
        for name in ("scratch", "KD", "first name", "second name", "third name")
        for seed in range(6)
    ]
    gaps = [gap for row in summarise(lines) for gap in row.differences.values()]
    assert len(gaps) == 4 + 3 and not any(gap.significant for gap in gaps)


def test_a_csv_file_holds_the_numbers_in_full() -> None:
    read = {row["objective"]: row for row in csv.DictReader(io.StringIO(table_text(summarise(LINES), "csv")))}
    (row,) = (row for row in summarise(LINES) if row.objective == "AMD")
    assert float(read["AMD"]["accuracy"]) == row.accuracy.mean
    assert float(read["AMD"]["to scratch p holm"]) == row.differences["scratch"].p_holm
    assert float(read["AMD"]["to KD low"]) == row.differences["KD"].low
    assert read["scratch"]["to scratch"] == "" and read["AMD"]["seeds"] == "0 1 2 3"


def test_markdown_and_latex() -> None:
    rows = summarise([*LINES, line("50% & more_", 0, 0.9, settings={"kd.T": 4})])
    markdown, latex = table_text(rows), table_text(rows, "latex")
    assert "| AMD | 4 | 94.50 ± 1.29 | 94.50 ± 1.29 | 3.5 s | +3.75 [+" in markdown
    assert r"50\% \& more\_ (kd.T=4)" in latex and r"\toprule" in latex and "±" not in latex.split("%")[0]
    assert len({text.count("|") for text in markdown.splitlines() if text.startswith("|")}) == 1
    with pytest.raises(InputError, match="markdown, csv, latex, not as 'html'"):
        table_text(rows, "html")


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_number_is_cut_on_a_narrow_terminal(width) -> None:
    long = "an objective with a rather long name, that says what is in it"
    lines = [
        *LINES,
        *(line(long, seed, 0.9 + seed / 300, settings={"amd.share": 0.25}) for seed in range(4)),
        line("AT", 0, None),
    ]
    console = Console(width=width, record=True, markup=False, file=io.StringIO())
    study = Study(None, lines, left=3)
    print_study(study, console)
    printed = console.export_text()
    assert width < 80 or all(len(text) <= width for text in printed.splitlines() if "failed:" not in text)
    for row in study.rows:
        for gap in row.differences.values():
            assert f"[{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]" in printed
        if row.accuracy is not None and row.accuracy.std is not None:
            assert f"{100 * row.accuracy.mean:.2f} ± {100 * row.accuracy.std:.2f}" in printed
    assert "3 cells are left" in printed and "(1 failed)" in printed
