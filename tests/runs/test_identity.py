"""The identity of a run: which options a resumption must share."""

from __future__ import annotations

import pytest

from angularkd import InputError
from angularkd.runs import check_identity, check_unchanged, identity_of

OPTIONS = {"data": "digits", "epochs": 3, "lr": 0.1, "image_size": [8, 8], "out": "runs/a", "resume": False}


def test_where_it_runs_and_how_fast_is_no_part_of_it() -> None:
    identity = identity_of("DistillConfig", OPTIONS)
    assert identity == {"command": "DistillConfig", "data": "digits", "epochs": 3, "lr": 0.1, "image_size": [8, 8]}
    for name in ("out", "resume", "device", "workers", "compile"):
        assert identity_of("DistillConfig", {**OPTIONS, name: "another"}) == identity


def test_equal_runs_go_on() -> None:
    check_identity(
        "runs/a", identity_of("DistillConfig", OPTIONS), identity_of("DistillConfig", {**OPTIONS, "resume": True})
    )


@pytest.mark.parametrize(
    ("command", "more", "differing"),
    [
        ("DistillConfig", {"epochs": 4}, "epochs"),
        ("DistillConfig", {"lr": 0.2, "data": "photos"}, "data, lr"),
        ("TrainConfig", {}, "command"),
    ],
)
def test_what_differs_is_named(command, more, differing) -> None:
    stored = identity_of("DistillConfig", OPTIONS)
    with pytest.raises(
        InputError, match=rf"^the run in runs/a was started with other options \({differing}\): resume with the same"
    ):
        check_identity("runs/a", stored, identity_of(command, {**OPTIONS, **more}))


def test_a_run_whose_identity_cannot_be_read_is_not_resumed() -> None:
    with pytest.raises(InputError, match=r"was started with other options \(command\).*config\.yaml.*`out`"):
        check_identity("runs/a", None, identity_of("DistillConfig", OPTIONS))


def test_an_option_that_is_new_since_the_run_was_started_differs() -> None:
    stored = identity_of("DistillConfig", {name: value for name, value in OPTIONS.items() if name != "lr"})
    with pytest.raises(InputError, match=r"other options \(lr\):"):
        check_identity("runs/a", stored, identity_of("DistillConfig", OPTIONS))


def test_what_changed_behind_the_same_options_is_named() -> None:
    stored = {"the train images": "a", "the weights of the teacher": "b"}
    check_unchanged("runs/a", stored, dict(stored))
    with pytest.raises(
        InputError, match=r"^the weights of the teacher changed since the run in runs/a was started: resume"
    ):
        check_unchanged("runs/a", stored, {**stored, "the weights of the teacher": "c"})
    with pytest.raises(InputError, match=r"^the train images and the weights of the teacher changed"):
        check_unchanged("runs/a", {}, stored)
