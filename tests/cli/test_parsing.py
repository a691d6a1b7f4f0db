"""Flags: what is wrong with them is one short line that names each once."""

from __future__ import annotations

import pytest

from angularkd import cli
from angularkd.config import DistillConfig, TrainConfig

TRAIN = ["train", "digits", "--model", "cifar/resnet8"]


def complaint(capsys, *arguments: str) -> str:
    """Return the line that a command line is refused with."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("angularkd: ") and err.count("\n") == 1 and len(err) < 400, err
    return err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train"], "the option DATA is required; the option --model is required. See: angularkd train --help"),
        (["train", "digits"], "the option --model is required. See: angularkd train --help"),
        (["train", "--model", "a"], "the option DATA is required. See: angularkd train --help"),
        (
            ["explain", "--teacher", "a", "--student", "b"],
            "the option IMAGE is required. See: angularkd explain --help",
        ),
        (["predict", "runs/a"], "the option IMAGES is required. See: angularkd predict --help"),
        ([*TRAIN, "--epochs"], "--epochs needs a value. See: angularkd train --help"),
        ([*TRAIN, "--epochs", "one"], "--epochs is a whole number, not 'one'. See: angularkd train --help"),
        ([*TRAIN, "--lr", "x"], "--lr is a number, not 'x'. See: angularkd train --help"),
        ([*TRAIN, "--mixup", "x"], "--mixup is a number, not 'x'. See: angularkd train --help"),
        ([*TRAIN, "--epochs", "-1"], "--epochs: input should be greater than 0, got -1. See: angularkd train --help"),
        (
            [*TRAIN, "--schedule", "cosin"],
            "--schedule is one of cosine, onecycle, step, constant, not 'cosin'. See: angularkd train --help",
        ),
        ([*TRAIN, "--optimizer", "x"], "--optimizer is one of sgd, adamw, not 'x'. See: angularkd train --help"),
        ([*TRAIN, "--milestones", "x"], "--milestones is one number or more, not 'x'. See: angularkd train --help"),
        (
            [*TRAIN, "--image-size", "1", "x"],
            "--image-size is one whole number or two, not '1', 'x'. See: angularkd train --help",
        ),
        ([*TRAIN, "extra"], "there is no place for extra. See: angularkd train --help"),
        ([*TRAIN, "--config", "a", "--config=b"], "--config is given twice: options are read from one file"),
        (
            [*TRAIN, "--mixup", "1e-308"],
            "--mixup: must be 0 for none, or 0.001 or more, got 1e-308. See: angularkd train --help",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_flag_once(capsys, arguments, line) -> None:
    assert complaint(capsys, *arguments) == f"angularkd: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--epochs", "9" * 30], "--epochs: input should be less than or equal to 100000"),
        ([*TRAIN, "--epochs", "9" * 5000], "has 5,000 characters"),
        ([*TRAIN, "--workers", "1000000000"], "--workers: input should be less than or equal to 1024"),
        ([*TRAIN, "--image-size", "1000000000"], "--image-size: must be at least 1 pixel, and at most 16,384"),
        ([*TRAIN, "--out", "a\0b"], "NUL"),
        ([*TRAIN, "--out", "x" * 300], "--out: names of files have at most 255 bytes"),
        (["train", "x" * 300, "--model", "a"], "DATA: names of files have at most 255 bytes"),
        (["train", "--config", "x" * 300], "no configuration file"),
        (["train", "--config", "/dev/zero"], "larger than"),
        (["x" * 300], "there is no command"),
        (["list", "models", "x" * 3000], "no models match"),
    ],
)
def test_what_is_too_long_or_too_large_is_refused_before_anything_is_done(
    capsys, tmp_path, monkeypatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1 and len(err) < 1200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["list", "--help"], ["list", "-h"], ["list", "models", "--help"]])
def test_list_has_a_help_too(capsys, arguments) -> None:
    cli.main(arguments)
    assert "usage: angularkd list models|losses|datasets|metrics [PATTERN]" in capsys.readouterr().out


def test_a_file_gives_what_is_required(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("data: digits\nmodel: cifar/resnet8\nimage_size: [8, 16]\nnesterov: false\n")
    config = cli.parse(TrainConfig, "train", ["--config", str(tmp_path / "a.yaml"), "--model", "cifar/resnet14"])
    assert (config.data, config.model, config.image_size, config.nesterov) == (
        "digits",
        "cifar/resnet14",
        (8, 16),
        False,
    )


def test_losses_on_the_command_line_replace_those_of_a_file(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("data: digits\nteacher: a\nstudent: b\nloss: {ce: 1, kd: 2}\n")
    file = ["--config", str(tmp_path / "a.yaml")]
    assert cli.parse(DistillConfig, "plan", file).losses == {"ce": 1, "kd": 2}
    assert cli.parse(DistillConfig, "plan", [*file, "--loss", "ce=3"]).losses == {"ce": 3}
