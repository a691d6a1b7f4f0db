"""`distill --baseline`: the student without its teacher, by the same recipe, and an honest sentence on the difference."""

from __future__ import annotations

from math import comb
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import angularkd
from angularkd import InputError
from angularkd.config import DistillConfig
from angularkd.models import cifar
from angularkd.training import Silent, run_distillation
from angularkd.training.comparison import little_to_teach, paired_difference
from helpers import DIGITS, same, saved_weights

OPTIONS = {**DIGITS, "student": "cifar/resnet8", "epochs": 2, "val_fraction": 0.4}


@pytest.fixture(scope="module")
def compared(digits_teacher, tmp_path_factory) -> angularkd.Run:
    out = tmp_path_factory.mktemp("baseline") / "run"
    return angularkd.distill(**OPTIONS, teacher=str(digits_teacher), baseline=True, out=str(out))


@pytest.fixture(scope="module")
def alone(digits_teacher, tmp_path_factory) -> angularkd.Run:
    out = tmp_path_factory.mktemp("alone") / "run"
    return angularkd.distill(**OPTIONS, teacher=str(digits_teacher), out=str(out))


def test_the_baseline_is_the_run_of_train_with_the_same_options(compared, tmp_path) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "student"}
    trained = angularkd.train(**options, model="cifar/resnet8", out=str(tmp_path / "run"))
    assert same(saved_weights(compared.folder / "baseline"), saved_weights(trained.folder))
    assert compared.results["metrics"]["from scratch"] == trained.results["metrics"]["last epoch"]


def test_the_student_is_the_one_that_it_would_be_without_a_baseline(compared, alone) -> None:
    assert same(saved_weights(compared.folder), saved_weights(alone.folder))
    assert "from scratch" not in alone.results["metrics"] and "comparison" not in alone.results
    assert not (alone.folder / "baseline").exists()


def test_the_comparison_is_of_the_two_accuracies(compared) -> None:
    found, metrics = compared.results["comparison"], compared.results["metrics"]
    accuracies = [metrics[name]["accuracy"] for name in ("last epoch", "from scratch")]
    assert found["difference"] == pytest.approx(accuracies[0] - accuracies[1], abs=1e-6)
    assert found["low"] < found["difference"] < found["high"] and found["images"] == compared.results["images"]
    assert set(compared.results["milliseconds"]) == {"student", "teacher"}
    assert compared.results["teacher_parameters"] > 0


def test_a_finished_run_gets_its_baseline_by_resuming(alone, compared, digits_teacher, tmp_path) -> None:
    options = {**OPTIONS, "teacher": str(digits_teacher), "out": str(alone.folder), "resume": True, "baseline": True}
    later = angularkd.distill(**options)
    assert later.results["comparison"] == compared.results["comparison"]
    assert same(saved_weights(later.folder), saved_weights(compared.folder))


class Killed(Silent):
    """A reporter in which the run is killed as soon as an epoch is done, and what it logs is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def epoch(self, row: dict) -> None:
        raise KeyboardInterrupt


def test_a_run_that_is_killed_in_its_baseline_goes_on(compared, digits_teacher, tmp_path) -> None:
    given = {**OPTIONS, "teacher": str(digits_teacher), "baseline": True, "out": str(tmp_path / "run")}
    killed = Killed()
    with pytest.raises(KeyboardInterrupt):
        run_distillation(DistillConfig.from_options(**given), killed)
    assert any("without the teacher first" in line for line in killed.lines)
    assert not [line for line in killed.lines if line.startswith("note: ")], "the plan has shown them"
    assert (tmp_path / "run/baseline/checkpoints/last.ckpt").exists()
    gone_on = angularkd.distill(**given, resume=True)
    assert same(saved_weights(gone_on.folder / "baseline"), saved_weights(compared.folder / "baseline"))
    assert gone_on.results["comparison"] == compared.results["comparison"]


def test_a_module_is_trained_by_its_teacher_alone(digits_teacher, tmp_path) -> None:
    student = cifar.create("resnet8", 10)
    given = {**OPTIONS, "epochs": 1, "student": student, "teacher": str(digits_teacher), "out": str(tmp_path / "run")}
    run = angularkd.distill(**given, baseline=True)
    assert same(student.state_dict(), saved_weights(run.folder))
    assert not same(student.state_dict(), saved_weights(run.folder / "baseline"))
    plain = {**given, "out": str(tmp_path / "plain")}
    angularkd.distill(**plain)
    with pytest.raises(InputError, match="`baseline` trains the student as it was at first"):
        angularkd.distill(**plain, resume=True, baseline=True)


def test_the_paired_difference_is_that_of_its_formulas() -> None:
    ours = np.array([True] * 60 + [True] * 12 + [False] * 5 + [False] * 23)
    theirs = np.array([True] * 60 + [False] * 12 + [True] * 5 + [False] * 23)
    found = paired_difference(ours, theirs)
    assert (found["only_student"], found["only_baseline"], found["images"]) == (12, 5, 100)
    assert found["difference"] == pytest.approx(0.07)
    p, q = 13 / 102, 6 / 102
    half = 1.959964 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert (found["low"], found["high"]) == pytest.approx((p - q - half, p - q + half))
    assert found["p_value"] == pytest.approx(2 * sum(comb(17, k) for k in range(6)) / 2**17)
    turned = paired_difference(theirs, ours)
    assert turned["difference"] == -found["difference"] and turned["p_value"] == found["p_value"]


def test_equal_classifiers_differ_by_nothing() -> None:
    hits = np.array([True, False] * 50)
    found = paired_difference(hits, hits)
    assert found["difference"] == 0 and found["p_value"] == 1 and found["low"] < 0 < found["high"]


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_the_interval_holds_the_true_difference_in_about_95_of_100_draws(rate) -> None:
    draws, held = np.random.default_rng(0), 0
    for _ in range(400):
        kind = draws.random(200)
        found = paired_difference(kind > rate, (kind > 2 * rate) | (kind <= rate / 2))
        held += found["low"] <= 2 * rate - rate / 2 - rate <= found["high"]
    assert held >= 0.92 * 400


def test_a_student_that_reaches_its_teacher_alone_is_noted() -> None:
    plan = SimpleNamespace(teacher_validation={"accuracy": 0.9})
    assert little_to_teach(plan, {"selected_validation_accuracy": 0.8}) is None
    assert "may have little to teach" in (little_to_teach(plan, {"selected_validation_accuracy": 0.9}) or "")
    nothing = SimpleNamespace(teacher_validation={})
    assert little_to_teach(nothing, {"selected_validation_accuracy": 0.9}) is None


def test_what_stops_a_distillation_stops_it_before_its_baseline(tmp_path) -> None:
    given = {**OPTIONS, "teacher": "cifar/resnet8", "baseline": True, "out": str(tmp_path / "run")}
    with pytest.raises(InputError, match="no trained weights"):
        angularkd.distill(**given)
    assert not Path(tmp_path / "run").exists()
