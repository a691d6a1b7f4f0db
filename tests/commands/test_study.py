"""The study command: what is run, what is not run again, what is printed and refused. Runs are made up here (see test_study_runs)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

import angularkd
from angularkd import InputError
from angularkd.cli import main
from angularkd.studies import places
from angularkd.studies.cells import Task
from angularkd.system.stopping import Stopped

STUDY: dict[str, Any] = {
    "data": "digits",
    "pairs": [{"name": "pair", "teacher": {"model": "cifar/resnet20", "epochs": 1}, "student": "cifar/resnet8"}],
    "objectives": {"AMD": {"loss": {"ce": 1, "amd": 5}, "grid": {"amd": [1, 2]}}},
    "seeds": 2,
    "recipe": {"epochs": 1, "image_size": 8},
}
CELLS = 1 + 2 + 2 * 3
"""A teacher, two trials, two seeds of scratch, KD and AMD."""


@pytest.fixture
def ran(monkeypatch) -> list[Task]:
    """Runs are made up, at once; those whose weight of amd is 13 fail. The list holds those that were done."""
    done: list[Task] = []

    def made_up(task: Task, *_: Any) -> dict[str, Any]:
        done.append(task)
        outcome = {"run": task.run, "configuration": dict(task.options), "hardware": {}, "versions": {}, "error": None}
        amd = task.options.get("loss", {}).get("amd", {"weight": 0})
        weight = amd["weight"] if isinstance(amd, dict) else amd
        if weight == 13:
            return {**outcome, "status": "failed", "error": "unlucky", "results": {}, "validation": {}, "seconds": None}
        accuracy = 0.8 + weight / 100 + task.options.get("seed", 0) % 7 / 500
        metrics = {name: {"accuracy": accuracy} for name in ("last epoch", "selected epoch")} if task.test else {}
        return {
            **outcome,
            "status": "finished",
            "results": {"metrics": metrics},
            "validation": {"accuracy": accuracy},
            "seconds": 1.5,
        }

    monkeypatch.setattr(places, "carry_out", made_up)
    return done


def written(folder: Path, study: dict[str, Any] = STUDY) -> str:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(study))
    return str(file)


def test_a_study_from_its_file_to_its_table(tmp_path, monkeypatch, capsys, ran) -> None:
    monkeypatch.chdir(tmp_path)
    main(["study", written(tmp_path), "--markdown", "t.md", "--csv", "t.csv", "--latex", "t.tex"])
    printed = capsys.readouterr().out
    assert len(ran) == CELLS
    lines = [json.loads(line) for line in Path("studies/small/results.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["teacher", "selection", "selection", *["result"] * 6]
    assert {"cell", "run", "study", "configuration", "versions", "hardware", "results", "seconds"} <= set(lines[0])
    assert f"{CELLS}/{CELLS}  pair  AMD (amd=2)  seed 1  test accuracy 82.20%" in printed
    assert "| AMD (amd=2) | 2 | 82.10 ± 0.14 |" in Path("t.md").read_text()
    assert Path("t.tex").read_text().startswith(r"\begin{tabular}") and "amd=2" in Path("t.csv").read_text()
    assert "trials" in printed or "tried on validation images" in printed
    assert yaml.safe_load(Path("studies/small/study.yaml").read_text()) == STUDY


def test_what_is_done_is_not_done_again_and_more_seeds_add_their_own(tmp_path, monkeypatch, capsys, ran) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path)
    main(["study", file])
    before, table = Path("studies/small/results.jsonl").read_bytes(), capsys.readouterr().out.split("left\n")[-1]
    ran.clear()
    main(["study", file])
    assert not ran and Path("studies/small/results.jsonl").read_bytes() == before
    assert capsys.readouterr().out.split("done already\n")[-1] == table
    main(["study", file, "--seeds", "4"])
    assert sorted(task.options["seed"] for task in ran) == [2, 2, 2, 3, 3, 3]
    assert Path("studies/small/results.jsonl").read_bytes().startswith(before)


def test_a_failed_cell_is_shown_and_tried_again(tmp_path, capsys, ran) -> None:
    unlucky = {**STUDY, "objectives": {"AMD": {"loss": {"ce": 1, "amd": 13}}}}
    study = angularkd.study(unlucky, out=tmp_path / "s")
    assert len(study.failed) == 2 and study.left == 0
    assert {row.objective: row.failed for row in study.rows} == {"teacher": 0, "scratch": 0, "KD": 0, "AMD": 2}
    ran.clear()
    main(["study", written(tmp_path, unlucky), "--out", str(tmp_path / "s")])
    assert len(ran) == 2 and all(task.options["loss"]["amd"] == {"weight": 13} for task in ran)
    printed = capsys.readouterr().out
    assert "0 (2 failed)" in printed and "failed: pair  AMD  seed 0: unlucky" in printed


def test_a_budget_ends_a_study_between_two_runs_and_says_what_is_left(tmp_path, capsys, ran) -> None:
    main(["study", written(tmp_path), "--out", str(tmp_path / "s"), "--budget", "0s"])
    assert not ran
    assert f"{CELLS} cells are left: the same command goes on with them" in capsys.readouterr().out
    study = angularkd.study(STUDY, out=tmp_path / "s", budget="1h30m")
    assert study.left == 0 and len(ran) == CELLS


def test_tables_are_made_anew_from_results_alone(tmp_path, capsys, ran) -> None:
    for name, seeds in (("a", [0, 1]), ("b", [1, 2])):
        angularkd.study({**STUDY, "seeds": seeds}, out=tmp_path / name)
    whole = angularkd.study({**STUDY, "seeds": 3}, out=tmp_path / "whole")
    files = [str(tmp_path / name / "results.jsonl") for name in ("a", "b")]
    ran.clear()
    merged = angularkd.study(table=files)
    assert not ran and merged.folder is None
    assert merged.table("csv") == whole.table("csv") and merged.rows == whole.rows
    main(["study", "--table", *files, "--csv", str(tmp_path / "t.csv")])
    assert (tmp_path / "t.csv").read_text() == whole.table("csv")
    assert "AMD (amd=2)" in capsys.readouterr().out
    with pytest.raises(InputError, match="leave out the study"):
        angularkd.study(STUDY, table=files)


def test_the_folder_of_another_study_is_refused(tmp_path, ran) -> None:
    angularkd.study(STUDY, out=tmp_path / "s")
    with pytest.raises(InputError, match="another configuration: pair, AMD, differs in epochs: give another `out`"):
        angularkd.study({**STUDY, "recipe": {"epochs": 2, "image_size": 8}}, out=tmp_path / "s")
    more = {**STUDY, "objectives": {**STUDY["objectives"], "AT": {"loss": {"ce": 1, "at": 3}}}}
    ran.clear()
    angularkd.study(more, out=tmp_path / "s")
    assert len(ran) == 2, "an objective may be added"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the study, a YAML file, or files of results with --table"),
        (["missing.yaml"], "there is no configuration file missing.yaml"),
        (["small.yaml", "--budget", "soon"], "--budget: is a time with units, such as 3h"),
        (["small.yaml", "--processes", "0"], "--processes"),
        (["small.yaml", "--seeds", "0"], "--seeds"),
        (["small.yaml", "--seeds", "3", "3"], "--seeds"),
        (["small.yaml", "--on", "mars"], "--on"),
        (["small.yaml", "--on", "ray", "--processes", "2"], "--processes are of this machine"),
        (["small.yaml", "--gpus", "0.5"], "--gpus are shared out by Ray: give --on ray"),
        (["--table", "missing.jsonl"], "there is no file of results missing.jsonl"),
        (["--table", "small.yaml"], "small.yaml, line 1, is no result of a study"),
        (["code.yaml"], "code.yaml names net.py:Net, and to open it would run the code in"),
        (["typo.yaml"], "typo.yaml: unknown key 'objektives'. Did you mean 'objectives'"),
        (["empty.yaml"], "empty.yaml names no pairs"),
        (["small.yaml", "--csv", "folder"], "folder is a folder: give the name of a file with --csv"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(tmp_path, monkeypatch, capsys, ran, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "net.py").write_text("raise SystemExit('run')\n")
    (tmp_path / "empty.yaml").write_text("data: digits\n")
    (tmp_path / "typo.yaml").write_text("data: digits\nobjektives: {}\n")
    (tmp_path / "code.yaml").write_text(
        yaml.safe_dump({**STUDY, "pairs": [{"teacher": "cifar/resnet20", "student": "net.py:Net"}]})
    )
    with pytest.raises(SystemExit) as stop:
        main(["study", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not ran and not (tmp_path / "studies").exists()


def test_a_study_that_is_stopped_says_how_it_goes_on(tmp_path, monkeypatch, capsys, ran) -> None:
    made_up = places.carry_out

    def stopped(task: Task, *more: Any) -> dict[str, Any]:
        if len(ran) == 2:
            raise Stopped(signal.SIGTERM, saved=True)
        return made_up(task, *more)

    monkeypatch.setattr(places, "carry_out", stopped)
    with pytest.raises(SystemExit) as stop:
        main(["study", written(tmp_path), "--out", str(tmp_path / "s")])
    assert stop.value.code == 143
    assert capsys.readouterr().err == "angularkd: stopped by SIGTERM; the same command goes on\n"
    monkeypatch.setattr(places, "carry_out", made_up)
    assert angularkd.study(written(tmp_path), out=tmp_path / "s").left == 0
    assert len(ran) == CELLS, "the two that were done are not done again"


def test_without_ray_its_remedy_is_said(tmp_path, monkeypatch, ran) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs ray: pip install 'angularkd\[ray\]'"):
        angularkd.study(STUDY, out=tmp_path / "s", on="ray")
