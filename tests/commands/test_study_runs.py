"""Studies whose runs are real: the same numbers wherever they run, after a kill too, and no test image where settings are chosen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import angularkd
from angularkd.studies import Study, read_lines, study_of
from angularkd.studies.summary import NUMBER

SMALL: dict[str, Any] = {
    "data": "digits",
    "pairs": [{"teacher": {"model": "cifar/resnet8", "epochs": 2}, "student": "cifar/resnet8"}],
    "objectives": {
        "AMD": {"loss": {"ce": 1, "amd": {"weight": "auto", "share": 0.5}}},
        "control": {"loss": "default", "control": "shuffled"},
    },
    "baselines": False,
    "seeds": [3],
    "recipe": {
        "image_size": 8,
        "epochs": 1,
        "batch_size": 64,
        "lr": 0.05,
        "schedule": "onecycle",
        "augment": [],
        "val_fraction": 0.45,
        "device": "cpu",
    },
}


@pytest.fixture(scope="module")
def one_after_another(tmp_path_factory) -> Study:
    """The study, run in this process."""
    return angularkd.study(SMALL, out=tmp_path_factory.mktemp("study") / "s")


def numbers(study: Study) -> dict[str, Any]:
    """What must not depend on where runs were done: all metrics and the weights themselves, by cell."""
    assert not study.failed and study.left == 0, study.failed
    return {
        line["cell"]: (line["results"].get("metrics"), line["validation"], line["student_hash"], line["teacher_hash"])
        for line in study.cells
    }


def test_each_cell_says_what_it_is_of(one_after_another) -> None:
    labels = [line["objective"] for line in one_after_another.cells]
    assert labels == ["teacher", "teacher, shuffled labels", "AMD", "control"]
    teacher, shuffled, amd, control = one_after_another.cells
    assert teacher["results"]["metrics"]["last epoch"]["accuracy"] > 0.5
    assert shuffled["results"]["metrics"]["last epoch"]["accuracy"] < 0.35, "its labels say nothing"
    assert amd["teacher_hash"] != control["teacher_hash"] and len(amd["student_hash"]) == 32
    assert amd["configuration"]["seed"] == 3 and amd["configuration"]["cache"] == "cache"
    assert amd["configuration"]["teacher"] == f"runs/{teacher['run']}"
    assert amd["hardware"]["threads"] == 1 and torch.__version__.startswith(amd["versions"]["torch"])
    assert not list(one_after_another.folder.glob("runs/*/checkpoints/*.ckpt")), "finished runs need none"


def test_notes_of_plans_are_kept_and_stand_below_the_table(one_after_another) -> None:
    """As plan.json of each run has them; but what it finds of a control's teacher is what that is for, and not said."""
    folder = one_after_another.folder
    for line in (line for line in one_after_another.cells if line["objective"] == "AMD"):
        plan = folder / "runs" / line["run"] / "plan.json"
        kept = json.loads(plan.read_text())["notes"] if plan.exists() else []
        assert [note.replace("'", "`") for note in line["notes"]] == [note.replace("'", "`") for note in kept]
    noted = {note for line in one_after_another.cells for note in line["notes"]}
    assert any("drawn from train" in note for note in noted)
    text = one_after_another.table()
    assert "chance (" not in text
    without_numbers = NUMBER.sub("#", text)
    assert all(without_numbers.count(NUMBER.sub("#", note)) == 1 for note in noted)
    assert study_of([folder / "results.jsonl"]).table() == text


def test_two_processes_give_the_same_numbers(one_after_another, tmp_path) -> None:
    threads = torch.get_num_threads()
    parallel = angularkd.study(SMALL, out=tmp_path / "s", processes=2)
    assert numbers(parallel) == numbers(one_after_another)
    assert torch.get_num_threads() == threads


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_numbers(one_after_another, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's own is 15: its workers wait for every other test
    assert numbers(angularkd.study(SMALL, out=tmp_path / "s", on="ray")) == numbers(one_after_another)


def test_threads_of_the_caller_change_nothing_and_are_left_alone(one_after_another, tmp_path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = angularkd.study({**SMALL, "objectives": {"AMD": SMALL["objectives"]["AMD"]}}, out=tmp_path / "s")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert numbers(again).items() <= numbers(one_after_another).items()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_study_that_was_killed_ends_as_one_that_was_not(one_after_another, tmp_path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    out = tmp_path / "s"
    command = [sys.executable, "-m", "angularkd", "study", str(tmp_path / "study.yaml"), "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    results = out / "results.jsonl"
    deadline = time.monotonic() + 500
    while not (results.exists() and results.read_bytes().count(b"\n") == 2):  # in the midst of the third cell
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    while len(list(out.glob("runs/*/config.yaml"))) < 3 and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = [line["cell"] for line in read_lines(results)]
    assert 2 <= len(done) < 4
    seconds = {line["cell"]: line["seconds"] for line in read_lines(results)}
    study = angularkd.study(str(tmp_path / "study.yaml"), out=out)
    assert numbers(study) == numbers(one_after_another)
    assert all(line["seconds"] == seconds[line["cell"]] for line in study.cells if line["cell"] in seconds), (
        "not run again"
    )
    assert [(row.objective, row.accuracy, row.selected) for row in study.rows] == [
        (row.objective, row.accuracy, row.selected) for row in one_after_another.rows
    ]


def images(folder: Path, per_class: int, broken: bool = False) -> None:
    """Write two classes that are told apart by their brightness, or files that are no images."""
    rng = np.random.default_rng(len(str(folder)))
    for label, level in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            pixels = (level + rng.integers(0, 40, (8, 8, 3))).astype(np.uint8)
            file = folder / label / f"{number}.png"
            if broken:
                file.write_bytes(b"\x89PNG\r\n\x1a\n broken")
            else:
                Image.fromarray(pixels).save(file)


def test_settings_are_chosen_where_no_test_image_can_be_read(tmp_path) -> None:
    """Of a data set whose test images are broken, every trial is finished, and every result fails."""
    for split, count in (("train", 24), ("val", 8)):
        images(tmp_path / "data" / split, count)
    images(tmp_path / "data" / "test", 8, broken=True)
    grid = {"loss": "none", "grid": {"lr": [0.01, 0.02]}}
    recipe = {"epochs": 1, "batch_size": 16, "device": "cpu", "augment": [], "image_size": 8}
    pair = {"teacher": "cifar/resnet8", "student": "cifar/resnet8"}
    what = {"pairs": [pair], "objectives": {"scratch": grid}, "baselines": False, "seeds": 1, "recipe": recipe}
    study = angularkd.study({"data": str(tmp_path / "data"), **what}, out=tmp_path / "s")
    by_kind: dict[str, list[dict]] = {}
    for line in study.cells:
        by_kind.setdefault(line["kind"], []).append(line)
    assert [line["status"] for line in by_kind["selection"]] == ["finished", "finished"], by_kind["selection"]
    for line in by_kind["selection"]:
        assert line["results"]["metrics"] == {} and line["results"]["images"] == 0 and "accuracy" in line["validation"]
        assert "test" not in json.dumps(line["results"]["metrics"])
    assert [line["status"] for line in by_kind["result"]] == ["failed"]
    assert "broken" in by_kind["result"][0]["error"] or "decode" in by_kind["result"][0]["error"]
