"""The report command, and the report that every finished run leaves."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import angularkd
from angularkd.cli import main
from angularkd.errors import InputError
from helpers import DIGITS

TINY: dict[str, Any] = {**DIGITS, "epochs": 1, "student": "cifar/resnet8", "loss": {"ce": 1}}

TRAIN = ["train", "digits", "--image-size", "8", "--epochs", "1", "--device", "cpu", "--model", "cifar/resnet8"]


@pytest.fixture(scope="session")
def short_run(digits_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> angularkd.Run:
    """A distillation of one epoch that left no report; tests leave it as it is."""
    return angularkd.distill(**TINY, teacher=str(digits_teacher), out=str(tmp_path_factory.mktemp("report") / "run"))


def write_study(folder: Path, seeds: int = 5) -> Path:
    """Write the files of a study of four objectives, one of which is clearly better than the rest."""
    draws = random.Random(0)
    lines = []
    for objective, gain in (("scratch", 0.0), ("KD", 0.002), ("AMD <b>", 0.03), ("control", -0.001)):
        for seed in range(seeds):
            accuracy = 0.9 + 0.01 * draws.random() + gain
            metrics = {name: {"accuracy": accuracy, "nll": 0.3} for name in ("last epoch", "selected epoch")}
            lines.append(
                {
                    "cell": f"{objective}{seed}", "run": "r", "kind": "result", "status": "finished", "error": None,
                    "pair": "wrn_16_2 -> resnet8", "objective": objective, "vary": {}, "settings": {}, "seed": seed, "study": "s",
                    "configuration": {}, "versions": {"torch": "2.8"}, "hardware": {"processor": "P"}, "seconds": 3.0,
                    "results": {"metrics": metrics, "images": 359}, "validation": {"accuracy": accuracy}, "student_hash": None,
                    "teacher_hash": None,
                }
            )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "study.yaml").write_text(yaml.safe_dump({"pairs": []}))
    return folder


def test_every_finished_distillation_leaves_a_report(reports, digits_teacher, tmp_path) -> None:
    run = angularkd.distill(**TINY, teacher=str(digits_teacher), out=str(tmp_path / "run"))
    page = (run.folder / "report.html").read_text()
    assert f"{100 * run.results['metrics']['last epoch']['accuracy']:.1f} %" in page
    assert 'id="maps"' in page and "AMD" in page
    names = {file.name for file in (run.folder / "report_files").iterdir()}
    assert {
        "accuracy.svg",
        "accuracy.png",
        "angles.png",
        "embeddings.png",
        "reliability.png",
        "classes.png",
        "costs.png",
    } <= names
    assert "report" not in yaml.safe_load((run.folder / "config.yaml").read_text())
    made = run.folder / "report.html"
    made.unlink()
    assert angularkd.report(run.folder, device="cpu") == made  # and can be made again


def test_no_report_where_none_is_asked_for(reports, digits_teacher, tmp_path, capsys) -> None:
    main([*TRAIN, "--no-report", "--out", str(tmp_path / "without")])
    assert not (tmp_path / "without/report.html").exists()
    main([*TRAIN, "--out", str(tmp_path / "with")])
    assert (tmp_path / "with/report.html").exists()
    assert f"report: {tmp_path / 'with/report.html'}" in capsys.readouterr().out.replace("\n", " ")


def test_a_missing_library_is_said_in_a_line_and_the_run_is_finished(
    reports, digits_teacher, tmp_path, monkeypatch, capsys
) -> None:
    def missing() -> None:
        raise InputError("a report needs jinja2: pip install 'angularkd[report]'")

    monkeypatch.setattr("angularkd.commands.report.check_libraries", missing)
    main([*TRAIN, "--out", str(tmp_path / "run")])
    out = " ".join(capsys.readouterr().out.split())
    assert "note: there is no report" in out and "pip install 'angularkd[report]'" in out
    assert (tmp_path / "run/results.json").exists() and not (tmp_path / "run/report.html").exists()


def test_the_libraries_are_named_with_their_extra(monkeypatch) -> None:
    import sys

    from angularkd.reports import check_libraries

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"pip install 'angularkd\[report\]'"):
        check_libraries()


def test_a_failure_of_the_report_loses_nothing(reports, digits_teacher, tmp_path, monkeypatch, capsys) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr("angularkd.commands.report.report_run", broken)
    run = angularkd.distill(**TINY, teacher=str(digits_teacher), out=str(tmp_path / "run"))
    assert run.results["metrics"] and (run.folder / "student.safetensors").exists()
    main([*TRAIN, "--out", str(tmp_path / "t")])
    out = " ".join(capsys.readouterr().out.split())
    assert f"RuntimeError: no such luck): angularkd report {tmp_path / 't'} makes it" in out


def test_the_report_leaves_networks_and_random_state_as_they_are(reports, digits_teacher, tmp_path) -> None:
    import torch

    from helpers import same, saved_weights

    torch.manual_seed(5)
    before = torch.get_rng_state()
    with_report = angularkd.distill(**TINY, teacher=str(digits_teacher), out=str(tmp_path / "a"))
    assert torch.equal(torch.get_rng_state(), before)
    without = angularkd.distill(**TINY, teacher=str(digits_teacher), out=str(tmp_path / "b"), report=False)
    assert same(saved_weights(with_report.folder), saved_weights(without.folder))


def test_the_page_is_small_and_names_nothing_elsewhere(short_run, tmp_path) -> None:
    page = angularkd.report(short_run.folder, out=tmp_path / "r.html", device="cpu")
    text = page.read_text()
    assert page.stat().st_size < 5_000_000
    assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text
    assert (tmp_path / "r_files/accuracy.png").exists()


def test_a_trained_run_has_a_report_without_a_teacher(digits_teacher, tmp_path) -> None:
    text = angularkd.report(digits_teacher, out=tmp_path / "t.html", device="cpu").read_text()
    assert 'data-role="student"' in text and 'data-role="teacher"' not in text
    assert 'id="figure-embeddings"' in text and 'id="figure-angles"' not in text


def test_what_cannot_be_opened_is_said_and_left_out(short_run, tmp_path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(short_run.folder, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "teacher": str(tmp_path / "gone")}))
    alone = angularkd.report(run, device="cpu").read_text()
    assert "the teacher cannot be opened" in alone and 'data-role="student"' in alone
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": str(tmp_path / "gone")}))
    nothing = angularkd.report(run, device="cpu").read_text()
    assert "the networks or images of the run cannot be opened" in nothing and 'id="figure-accuracy"' in nothing
    assert 'id="maps"' not in nothing


def test_networks_without_feature_maps_have_a_report(reports, digits_teacher, tmp_path) -> None:
    from torch import nn

    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    options = {**TINY, "student": student, "loss": {"ce": 1, "kd": 1}}
    run = angularkd.distill(**options, teacher=str(digits_teacher), out=str(tmp_path / "run"))
    text = (run.folder / "report.html").read_text()
    assert 'id="figure-reliability"' in text and 'id="maps"' not in text
    again = angularkd.report(run.folder, device="cpu").read_text()
    assert "a module that was passed in Python" in again and 'id="figure-accuracy"' in again


def test_runs_side_by_side(short_run, digits_teacher, tmp_path, capsys) -> None:
    out = tmp_path / "both.html"
    main(
        ["report", str(short_run.folder), str(digits_teacher), "--out", str(out), "--figures", str(tmp_path / "drawn")]
    )
    text = out.read_text()
    assert "Of 2 runs" in text and 'id="figure-runs"' in text
    assert (tmp_path / "drawn/runs.svg").exists()
    assert "report: " in capsys.readouterr().out


def test_several_runs_show_their_calibration_and_one_wall(short_run, digits_teacher, tmp_path) -> None:
    page = angularkd.report([short_run.folder, digits_teacher], out=tmp_path / "both.html", device="cpu")
    text = page.read_text()
    assert page.stat().st_size < 5_000_000
    found = json.loads(re.search(r'id="maps">(.*?)</script>', text, re.DOTALL)[1])
    assert not found["compared"] and len(found["maps"]) >= 8
    for stage, maps in zip(found["stages"], zip(*found["maps"], strict=True), strict=True):
        assert len(stage["sizes"]) == 2
        for (height, width), encoded in zip(stage["sizes"], zip(*maps, strict=True), strict=True):
            attention = np.frombuffer(b"".join(map(base64.b64decode, encoded)), "<f4").reshape(-1, height * width)
            assert np.allclose(np.linalg.norm(attention, axis=1), 1, atol=1e-3)
    assert 'id="figure-reliability_1"' in text and 'id="figure-reliability_2"' in text
    assert {"reliability_1.png", "reliability_2.svg"} <= {file.name for file in (tmp_path / "both_files").iterdir()}
    agreeing, differing = map(int, re.search(r"all say the same of (\d+) and differ on (\d+)", text).groups())
    assert agreeing + differing == 359 and text.count('data-agree="no"') == min(differing, len(found["maps"]) // 2)


def test_runs_that_cannot_be_opened_or_have_other_images_leave_what_can_be_shown(
    short_run, digits_teacher, tmp_path, capsys
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(short_run.folder, moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    (moved / "config.yaml").write_text(yaml.safe_dump({**config, "data": str(tmp_path / "gone")}))
    main(["report", str(short_run.folder), str(digits_teacher), str(moved), "--out", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text()
    assert (
        "its network or images cannot be opened" in text
        and "its network or images cannot be opened" in capsys.readouterr().out
    )
    assert 'id="figure-reliability_2"' in text and 'id="figure-reliability_3"' not in text
    assert 'id="maps"' not in text, "the runs are not all of the same images"


def test_the_networks_of_many_runs_are_those_of_the_first(short_run, digits_teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("angularkd.commands.report.MOST_RUNS", 1)
    text = angularkd.report([short_run.folder, digits_teacher], out=tmp_path / "r.html", device="cpu").read_text()
    assert "Networks of the first 1 runs are shown" in text and 'id="figure-reliability_2"' not in text


def test_a_study(tmp_path) -> None:
    page = angularkd.report(write_study(tmp_path / "s"))
    text = page.read_text()
    assert page == tmp_path / "s/report.html"
    assert "AMD &lt;b&gt; is best" in text and "AMD <b>" not in text
    assert "which is not chance alone" in text
    assert {"accuracy.png", "to_scratch.svg", "to_KD.svg"} <= {
        file.name for file in (tmp_path / "s/report_files").iterdir()
    }


def test_a_study_of_one_seed_claims_nothing(tmp_path) -> None:
    text = angularkd.report(write_study(tmp_path / "s", seeds=1)).read_text()
    assert "not chance alone" not in text and "one seed" in text


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (["nothing"], "there is no run nothing"),
        (["."], "is not the folder of a run"),
        ([], "runs"),
        (["study", "run"], "is a study, and a report is of one study"),
        (["run", "run"], "a run is given twice"),
    ],
)
def test_what_is_no_run_is_said_in_a_line(short_run, tmp_path, monkeypatch, runs, words) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "study")
    named = [str(short_run.folder) if run == "run" else run for run in runs]
    with pytest.raises(InputError, match=words) as error:
        angularkd.report(named)
    assert "\n" not in str(error.value)
