"""What the plan says of the objective."""

from __future__ import annotations

import pytest

from angularkd.training.measuring import overweight, seconds_with_cache


def test_a_loss_that_leaves_nothing_to_the_others_is_named_with_a_weight_that_does() -> None:
    notes = overweight({"ce": 0.01, "kd": 0.01, "amd": 0.98}, {"ce": 0.1, "kd": 0.9, "amd": 5000.0})
    assert notes == ["amd gives 98.0% of the first gradient: with amd=1e+02 it would give half"]


def test_a_loss_of_its_own_or_beside_equals_is_left_alone() -> None:
    assert overweight({"ce": 1.0}, {"ce": 1.0}) == []
    assert overweight({"ce": 0.1, "amd": 0.9}, {"ce": 1.0, "amd": 10.0}) == []


def test_with_a_cache_the_teacher_is_expected_for_what_is_missing_alone() -> None:
    live, teacher = 100.0, 200.0  # images a second: the student alone takes 1/100 - 1/200 of a second
    assert seconds_with_cache(1000, live, teacher, 0) == pytest.approx(5)
    assert seconds_with_cache(1000, live, teacher, 400) == pytest.approx(5 + 2)
    assert seconds_with_cache(1000, live, teacher, 9999) == pytest.approx(10), "more than there are images to train on"
    assert seconds_with_cache(1000, live, 90.0, 0) == pytest.approx(1), "noise must not make it free"
