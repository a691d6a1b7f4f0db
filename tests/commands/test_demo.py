"""The demo: its runs, its table and its summary, with a shorter recipe."""

from __future__ import annotations

import json
import statistics

import pytest

from angularkd.cli import main
from angularkd.commands import demo

ROWS = {"teacher": "teacher", "student from scratch": "scratch", "KD": "kd", "AMD": "amd"}


def test_the_demo_trains_compares_and_sums_up(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(demo.RECIPE, "epochs", 1)
    out = tmp_path / "demo"
    main(["demo", "--seeds", "2", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seeds"] == 2 and summary["seconds"] > 0
    assert list(summary["rows"]) == list(ROWS)
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders == {f"{name}-seed{seed}" for name in ROWS.values() for seed in (0, 1)}
    for row, name in ROWS.items():
        results = [json.loads((out / f"{name}-seed{seed}" / "results.json").read_text()) for seed in (0, 1)]
        found = summary["rows"][row]
        assert found["parameters"] == results[0]["parameters"]
        for metric in demo.METRICS:
            values = [result["metrics"]["last epoch"][metric] for result in results]
            assert found[metric]["values"] == values
            assert found[metric]["mean"] == pytest.approx(statistics.mean(values))
            assert found[metric]["std"] == pytest.approx(statistics.stdev(values))
        assert found["nll"]["std"] > 0, "each seed is a run of its own"
        line = next(line for line in printed.splitlines() if line.strip("│┃ ").startswith(row) and "±" in line)
        accuracy = found["accuracy"]
        assert f"{accuracy['mean']:.2%} ± {accuracy['std']:.2%}" in line and f"{found['parameters']:,}" in line
        accuracies = [line for line in printed.splitlines() if f"  {row:<21} test accuracy" in line]
        assert [line.split()[1] for line in accuracies] == ["0", "1"]
    assert summary["rows"]["teacher"]["parameters"] > summary["rows"]["AMD"]["parameters"]
    assert f"run folders: {out}/" in printed

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(out)])
    assert "exists and is not empty: give another with --out" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_without_a_folder_the_first_free_one_is_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(demo._free_folder()) == "runs/demo"
    for name in ("demo", "demo-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert str(demo._free_folder()) == "runs/demo-3"
