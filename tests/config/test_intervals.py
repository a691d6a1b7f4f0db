"""Intervals of a run as text."""

from __future__ import annotations

import pytest

from angularkd import InputError
from angularkd.config import TrainConfig, parse_interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1epoch", (1, "epochs")),
        ("2epochs", (2, "epochs")),
        ("500steps", (500, "steps")),
        ("1 step", (1, "steps")),
        ("10min", (10, "minutes")),
        ("0.5minutes", (0.5, "minutes")),
    ],
)
def test_a_number_and_a_unit_are_read(text, expected) -> None:
    assert parse_interval(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "epoch", "3", "0steps", "-1epoch", "1.5steps", "0min", "5 weeks", "1epoch 2", "1e3steps", "9" * 400 + "min"],
)
def test_what_names_no_interval_is_refused_in_one_line(text) -> None:
    with pytest.raises(InputError, match=r"^`checkpoint_every`: must be .*such as .*1epoch") as error:
        TrainConfig.from_options(data="digits", model="cifar/resnet8", checkpoint_every=text)
    assert "\n" not in str(error.value)
