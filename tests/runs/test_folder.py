"""The folder of a run: its files by name, and who may write there."""

from __future__ import annotations

import json

import pytest

from angularkd import InputError
from angularkd.runs import STUDENT_FILE, RunFolder


def test_its_files_have_names(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    names = {
        "config": "config.yaml",
        "plan": "plan.json",
        "metrics": "metrics.jsonl",
        "checkpoint": "checkpoints/last.ckpt",
        "best": "checkpoints/best.safetensors",
        "student": "student.safetensors",
        "results": "results.json",
    }
    assert {name: getattr(folder, name).relative_to(tmp_path).as_posix() for name in names} == names
    assert names["student"] == STUDENT_FILE
    assert folder.teacher == RunFolder(tmp_path / "teacher")
    assert not list(tmp_path.iterdir()), "a name makes no file"


def test_what_is_written_is_read_back(tmp_path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    assert not folder.started and folder.read_config() is None
    folder.write_config("epochs: 3\nimage_size: [8, 8]\n")
    folder.write_plan({"pairs": []})
    folder.write_metrics([{"epoch": 1}, {"epoch": 2}])
    folder.write_results({"epochs": 2})
    assert folder.started and folder.read_config() == {"epochs": 3, "image_size": [8, 8]}
    assert json.loads(folder.plan.read_text()) == {"pairs": []}
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [{"epoch": 1}, {"epoch": 2}]
    assert json.loads(folder.results.read_text()) == {"epochs": 2}


@pytest.mark.parametrize(
    "content",
    [b"a: b: c", b"- 3\n", b"", b"just words", b"epochs: [3\n", b"\xff\xfe\x00epochs", b"epochs: \x07"],
    ids=["two colons", "a list", "nothing", "a text", "an open list", "no text", "a bell"],
)
def test_a_damaged_configuration_is_none(tmp_path, content) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_bytes(content)
    assert folder.started and folder.read_config() is None


def test_an_empty_or_new_folder_is_claimed_and_left_as_it_is(tmp_path) -> None:
    RunFolder(tmp_path).claim(resume=False)
    RunFolder(tmp_path / "new" / "run").claim(resume=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty: give another with `out`, or go on with `resume`"):
        RunFolder(tmp_path).claim(resume=False)
    with pytest.raises(InputError, match=r"no run to resume in .*: leave out `resume`, or name its folder with `out`"):
        RunFolder(tmp_path).claim(resume=True)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/last.ckpt", "teacher/config.yaml"])
def test_a_started_run_is_resumed_and_not_begun_anew(tmp_path, name) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("epochs: 3\n")
    RunFolder(tmp_path).claim(resume=True)
    with pytest.raises(InputError, match="is not empty"):
        RunFolder(tmp_path).claim(resume=False)


def test_a_place_that_cannot_hold_a_run_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"cannot hold results, for .*file is a file: give another with `out`"):
            RunFolder(tmp_path / "file" / "run").claim(resume)
