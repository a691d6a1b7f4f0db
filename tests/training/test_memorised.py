"""A teacher that has memorised its training images is reported with what to do."""

from __future__ import annotations

import math
import re

import pytest
import torch
import yaml

import angularkd
from angularkd.config import MAPS_ALONE, parse_losses
from angularkd.training import Silent, plan
from angularkd.training.memorised import INSTEAD, memorised_note, overconfident_note
from angularkd.training.teacher_validation import TeacherValidation
from helpers import DIGITS, same, saved_weights


@pytest.mark.parametrize(
    ("on_train", "on_validation", "says"),
    [(1.0, 0.93, True), (0.996, 0.97, True), (0.99, 0.6, False), (1.0, 0.99, False), (0.5, 0.6, False)],
)
def test_memorised_is_nearly_all_of_training_and_less_of_validation(on_train, on_validation, says) -> None:
    note = memorised_note(on_train, 500, on_validation)
    assert (note is not None) == says
    if note is not None:
        assert f"{on_train:.1%} of 500 are right" in note and "`loss=ce=1`" in note


@pytest.mark.parametrize(
    ("certainty", "images", "says"),
    [(0.9, 340, True), (0.9, 50, False), (0.73, 340, False), (0.2, 340, False)],
    ids=["too certain", "few images", "a little", "too modest"],
)
def test_much_more_certain_than_right_on_many_images_is_over_confidence(certainty, images, says) -> None:
    logits = torch.tensor([[math.log(certainty), math.log((1 - certainty) / 4), *3 * [math.log((1 - certainty) / 4)]]])
    found = TeacherValidation({"accuracy": 0.63}, logits.repeat(images, 1), torch.zeros(images, dtype=torch.int64))
    assert found.confidence == pytest.approx(max(certainty, (1 - certainty) / 4), abs=1e-6)
    assert found.overconfident == says


@pytest.mark.parametrize(("left_out", "says"), [(True, "are left out of"), (False, "leave its predictions out")])
def test_a_note_says_what_over_confidence_means(left_out, says) -> None:
    note = overconfident_note(0.9, 0.63, 340, left_out)
    assert "63.0%" in note and "90.0%" in note and "340" in note and "`loss=ce=1`" in note and says in note


def test_what_a_note_advises_is_what_a_run_does() -> None:
    assert parse_losses(tuple(re.findall("`loss=(.*?)`", INSTEAD))) == MAPS_ALONE


OPTIONS = {**DIGITS, "student": "cifar/resnet8"}


@pytest.fixture
def overconfident(monkeypatch) -> None:
    """Every teacher is taken for over-confident."""
    monkeypatch.setattr(TeacherValidation, "overconfident", property(lambda _: True))


def test_an_over_confident_teachers_predictions_are_left_out_of_the_default(digits_teacher, overconfident) -> None:
    found = angularkd.plan(**OPTIONS, teacher=str(digits_teacher))
    assert found.weights.keys() == {"ce", "amd"} and found.weights["ce"] == 1
    assert sum("are left out of the default objective" in note for note in found.notes) == 1


@pytest.mark.parametrize("losses", [{"ce": 0.1, "kd": 0.9}, {"ce": 1.0, "amd": "auto"}], ids=["kd", "maps"])
def test_an_objective_that_is_given_stays(digits_teacher, overconfident, losses) -> None:
    found = angularkd.plan(**OPTIONS, teacher=str(digits_teacher), loss=losses)
    assert found.weights.keys() == losses.keys()
    assert any("leave its predictions out" in note for note in found.notes) == ("kd" in losses)
    assert not any("are left out" in note for note in found.notes)


def test_other_teachers_predictions_stay_in_the_default(digits_teacher) -> None:
    assert angularkd.plan(**OPTIONS, teacher=str(digits_teacher)).weights.keys() == {"ce", "kd", "amd"}


def test_a_run_without_predictions_goes_on_without_them(digits_teacher, overconfident, tmp_path, monkeypatch) -> None:
    options = {**OPTIONS, "teacher": str(digits_teacher), "out": str(tmp_path / "run"), "epochs": 2, "report": False}
    whole = angularkd.distill(**{**options, "out": str(tmp_path / "whole")})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Silent, "epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        angularkd.distill(**options)
    monkeypatch.undo()  # the teacher is not asked again
    run = angularkd.distill(**options, resume=True)
    assert set(yaml.safe_load((run.folder / "config.yaml").read_text())["loss"]) == {"ce", "amd"}
    assert same(saved_weights(run.folder), saved_weights(whole.folder))


def test_a_plan_says_so_where_predictions_teach(digits_teacher, monkeypatch) -> None:
    seen: list[tuple[float, int, float]] = []
    monkeypatch.setattr(plan, "memorised_note", lambda *found: seen.append(found) or "memorised")
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8"}
    found = angularkd.plan(**options)
    assert "memorised" in found.notes
    on_train, images, on_validation = seen[0]
    assert images == 500 and on_train > 0.5 and on_validation == found.teacher_validation["accuracy"]
    assert "memorised" not in angularkd.plan(**options, loss={"ce": 1.0, "amd": "auto"}).notes
