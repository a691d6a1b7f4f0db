"""What the plan says of the objective."""

from __future__ import annotations

import pytest

from angularkd import InputError
from angularkd.training.measuring import balance_notes, check_runaway, seconds_with_cache

LOGITS = ("ce", "kd")
WEIGHTS = {"ce": 0.1, "kd": 0.9, "amd": 5000.0}


def test_a_loss_that_leaves_nothing_to_the_others_is_named_with_a_weight_that_does() -> None:
    notes = balance_notes({"ce": 0.01, "kd": 0.01, "amd": 0.98}, WEIGHTS, LOGITS)
    assert notes == ["amd gives 98.0% of the first gradient: with amd=1e+02 it would give half"]


def test_a_loss_that_gets_nothing_beside_the_logits_is_named_with_a_weight_that_gets_half() -> None:
    notes = balance_notes({"ce": 0.003, "kd": 0.987, "amd": 0.01}, WEIGHTS, LOGITS)
    assert notes == ["amd gives 1.0% of the first gradient: with amd=5e+05 it would give half"]
    assert balance_notes({"ce": 0.02, "kd": 0.98}, WEIGHTS, LOGITS) == [], "losses on logits belong together"
    assert balance_notes({"ce": 0.01, "kd": 0.99, "amd": 0.0}, WEIGHTS, LOGITS) == [], "no weight changes nothing"


def test_a_loss_of_its_own_or_beside_equals_is_left_alone() -> None:
    assert balance_notes({"ce": 1.0}, {"ce": 1.0}, LOGITS) == []
    assert balance_notes({"ce": 0.1, "amd": 0.9}, {"ce": 1.0, "amd": 10.0}, LOGITS) == []


def test_a_weight_that_keeps_the_student_from_its_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"amd gives 99.5% .* amd=25 it would give half.* amd=auto, .*`insist`"):
        check_runaway({"ce": 0.004, "kd": 0.001, "amd": 0.995}, WEIGHTS, LOGITS)
    for shares in ({"ce": 0.01, "amd": 0.989}, {"kd": 0.995, "amd": 0.005}, {"amd": 1.0}):
        check_runaway(shares, WEIGHTS, LOGITS)


def test_with_a_cache_the_teacher_is_expected_for_what_is_missing_alone() -> None:
    live, teacher = 100.0, 200.0  # images a second: the student alone takes 1/100 - 1/200 of a second
    assert seconds_with_cache(1000, live, teacher, 0) == pytest.approx(5)
    assert seconds_with_cache(1000, live, teacher, 400) == pytest.approx(5 + 2)
    assert seconds_with_cache(1000, live, teacher, 9999) == pytest.approx(10), "more than there are images to train on"
    assert seconds_with_cache(1000, live, 90.0, 0) == pytest.approx(1), "noise must not make it free"
