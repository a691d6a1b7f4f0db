"""What is read of a run, and what is said of a folder that is none."""

from __future__ import annotations

import json

import pytest

from angularkd.errors import InputError
from angularkd.reports import read_record

METRICS = {"last epoch": {"accuracy": 0.9}, "selected epoch": {"accuracy": 0.91}}


def run_folder(path, config="student: cifar/resnet8\nteacher: t\ndata: digits\n", results=None):
    path.mkdir()
    (path / "config.yaml").write_text(config)
    if results is not None:
        (path / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    return path


def test_files_that_are_missing_or_damaged_leave_gaps(tmp_path) -> None:
    folder = run_folder(tmp_path / "run", results={"metrics": METRICS, "images": 100})
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\nnot json')
    (folder / "plan.json").write_text("[1]")
    record = read_record(folder)
    assert record.history == [] and record.plan == {} and record.distilled and record.teacher_parameters is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nothing", "there is no run"),
        (lambda path: path, "is not the folder of a run"),
        (lambda path: run_folder(path / "a"), "is not finished"),
        (lambda path: run_folder(path / "b", results="{"), "is not finished"),
        (
            lambda path: run_folder(path / "c", config="- 1\n", results={"metrics": METRICS}),
            "is not the folder of a run",
        ),
        (lambda path: run_folder(path / "d", results={"metrics": {}, "images": 1}), "holds no metrics"),
        (lambda path: run_folder(path / "e", results={"metrics": {"last epoch": 3}, "images": 1}), "holds no metrics"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_said_in_a_line(tmp_path, make, words) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_record(make(tmp_path))
    assert "\n" not in str(error.value)
