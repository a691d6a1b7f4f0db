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


@pytest.mark.parametrize(("ece", "images", "says"), [(0.27, 340, True), (0.27, 50, False), (0.1, 340, False)])
def test_a_calibration_error_that_is_large_on_many_images_is_over_confidence(ece, images, says) -> None:
    note = overconfident_note(ece, images)
    assert (note is not None) == says
    if note is not None:
        assert "27.0%" in note and "340" in note and "`loss=ce=1`" in note


def test_a_plan_says_so_of_over_confidence(digits_teacher, monkeypatch) -> None:
    seen: list[tuple[float, int]] = []
    monkeypatch.setattr(plan, "overconfident_note", lambda *found: seen.append(found) or "too certain")
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8"}
    found = angularkd.plan(**options)
    assert "too certain" in found.notes and seen == [(found.teacher_validation["ece"], found.teacher_images)]
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
