"""The demo: its runs, its table and its summary, with a shorter recipe."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from angularkd.cli import main
from angularkd.commands import demo

ROWS = {
    "teacher": ["teacher"],
    "student from scratch": ["scratch-seed0", "scratch-seed1"],
    "student, KD": ["kd-seed0", "kd-seed1"],
    "student, KD + AMD": ["kd-amd-seed0", "kd-amd-seed1"],
}
"""The folders of the runs of each row of the table."""


def test_the_demo_trains_compares_and_sums_up(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(demo, "TEACHER_EPOCHS", 2)
    monkeypatch.setattr(demo, "STUDENT_EPOCHS", 1)
    out = tmp_path / "demo"
    main(["demo", "--seeds", "2", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seeds"] == 2 and summary["seconds"] > 0
    assert list(summary["rows"]) == list(ROWS)
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders == {name for names in ROWS.values() for name in names}
    table = printed.split("mean ± standard deviation over 2 seeds")[1]
    for row, names in ROWS.items():
        results = [json.loads((out / name / "results.json").read_text()) for name in names]
        found = summary["rows"][row]
        assert found["parameters"] == results[0]["parameters"]
        for metric in demo.METRICS:
            values = [result["metrics"]["last epoch"][metric] for result in results]
            assert found[metric]["values"] == values
            assert found[metric]["mean"] == pytest.approx(statistics.mean(values))
            expected = pytest.approx(statistics.stdev(values)) if len(values) > 1 else None
            assert found[metric]["std"] == expected
        cells = next(cells for cells in map(cells_of, table.splitlines()) if cells[:1] == [row])
        mean, std = found["accuracy"]["mean"], found["accuracy"]["std"]
        accuracy = f"{mean:.2%}" if std is None else f"{mean:.2%} ± {std:.2%}"
        assert cells[1:3] == [f"{found['parameters']:,}", accuracy]
        assert std is None or found["nll"]["std"] > 0, "each seed is a run of its own"
        assert len(re.findall(rf"^(?:seed \d, )?{re.escape(row)} +test accuracy", printed, re.M)) == len(names)
    assert summary["rows"]["teacher"]["parameters"] > summary["rows"]["student, KD"]["parameters"]
    assert f"run folders: {out}/" in printed

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(out)])
    assert "exists and is not empty: give another with --out" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def cells_of(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_without_a_folder_the_first_free_one_is_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(demo._free_folder()) == "runs/demo"
    for name in ("demo", "demo-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert str(demo._free_folder()) == "runs/demo-3"


def test_another_student_takes_the_place_of_the_demos(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(demo, "TEACHER_EPOCHS", 1)
    monkeypatch.setattr(demo, "STUDENT_EPOCHS", 1)
    file = Path(__file__).resolve().parents[2] / "examples/custom_model.py"
    main(["demo", "--seeds", "2", "--student", f"{file}:tiny_net", "--out", str(tmp_path / "demo")])
    summary = json.loads((tmp_path / "demo/summary.json").read_text())
    assert {row["parameters"] for name, row in summary["rows"].items() if name != "teacher"} == {18_626}
    assert "custom_model.py:tiny_net on 8x8 digits" in capsys.readouterr().out
