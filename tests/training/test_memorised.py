"""A teacher that has memorised its training images is reported with what to do."""

from __future__ import annotations

import pytest

import angularkd
from angularkd.training import plan
from angularkd.training.memorised import memorised_note, overconfident_note
from helpers import DIGITS


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
    ("confidence", "images", "says"),
    [(0.9, 340, True), (0.9, 50, False), (0.73, 340, False), (0.2, 340, False)],
    ids=["too certain", "few images", "a little", "too modest"],
)
def test_much_more_certain_than_right_on_many_images_is_over_confidence(confidence, images, says) -> None:
    note = overconfident_note(confidence, 0.63, images)
    assert (note is not None) == says
    if note is not None:
        assert "63.0%" in note and "90.0%" in note and "340" in note and "`loss=ce=1`" in note


def test_a_plan_says_so_of_over_confidence(digits_teacher, monkeypatch) -> None:
    seen: list[tuple[float, float, int]] = []
    monkeypatch.setattr(plan, "overconfident_note", lambda *found: seen.append(found) or "too certain")
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8"}
    found = angularkd.plan(**options)
    assert "too certain" in found.notes and seen[0][1:] == (found.teacher_validation["accuracy"], found.teacher_images)
    assert 0.1 < seen[0][0] < 1
    assert "too certain" not in angularkd.plan(**options, loss={"ce": 1.0, "amd": "auto"}).notes


def test_a_plan_says_so_where_predictions_teach(digits_teacher, monkeypatch) -> None:
    seen: list[tuple[float, int, float]] = []
    monkeypatch.setattr(plan, "memorised_note", lambda *found: seen.append(found) or "memorised")
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8"}
    found = angularkd.plan(**options)
    assert "memorised" in found.notes
    on_train, images, on_validation = seen[0]
    assert images == 500 and on_train > 0.5 and on_validation == found.teacher_validation["accuracy"]
    assert "memorised" not in angularkd.plan(**options, loss={"ce": 1.0, "amd": "auto"}).notes
