"""Configurations: one definition for Python, YAML and flags, strict and frozen."""

from __future__ import annotations

import inspect

import pytest
import yaml
from pydantic import ValidationError

from angularkd import InputError
from angularkd.cli import parse
from angularkd.config import DEFAULT_LOSSES, DistillConfig, TrainConfig, format_losses, parse_losses, with_flags
from angularkd.losses import LOSSES, read_terms

REQUIRED = {"data": "digits", "teacher": "cifar/resnet20", "student": "cifar/resnet8"}
FLAGS = ["digits", "--teacher", "cifar/resnet20", "--student", "cifar/resnet8"]


@pytest.mark.parametrize(("option", "value"), [("augment", "flip"), ("trust", "net.py")])
def test_one_text_is_a_list_of_one(option, value) -> None:
    assert getattr(DistillConfig.from_options(data="digits", teacher="a", student="b", **{option: value}), option) == (
        value,
    )


def test_flags_and_keyword_arguments_are_the_same() -> None:
    assert parse(DistillConfig, "distill", FLAGS) == DistillConfig.from_options(**REQUIRED)
    flags = [*FLAGS, "--loss", "ce=1", "--loss", "amd=20,grid=2", "--image-size", "48", "80", "--no-nesterov"]
    options = {"loss": {"ce": 1, "amd": {"weight": 20, "grid": 2}}, "image_size": (48, 80), "nesterov": False}
    parsed = parse(DistillConfig, "distill", flags)
    assert parsed == DistillConfig.from_options(**REQUIRED, **options)
    assert parsed.losses == {"ce": 1, "amd": {"weight": 20, "grid": 2}}


def test_yaml_is_read_back_and_flags_lie_on_top(tmp_path) -> None:
    config = DistillConfig.from_options(**REQUIRED, epochs=7, loss={"ce": 0.5, "kd": {"weight": 2, "T": 3}})
    file = tmp_path / "config.yaml"
    file.write_text(config.dump())
    assert parse(DistillConfig, "distill", ["--config", str(file)]) == config
    changed = parse(DistillConfig, "distill", [f"--config={file}", "--epochs", "9", "--loss", "ce=1"])
    assert (changed.epochs, changed.losses, changed.teacher) == (9, {"ce": 1}, config.teacher)


def test_yaml_may_hold_a_part(tmp_path) -> None:
    file = tmp_path / "part.yaml"
    file.write_text("epochs: 3\nloss: {ce: 1, amd: 5}\n")
    config = parse(DistillConfig, "distill", [*FLAGS, "--config", str(file)])
    assert (config.epochs, config.losses, config.data) == (3, {"ce": 1, "amd": 5}, "digits")


def test_the_default_objective_is_valid_and_written_out() -> None:
    config = DistillConfig.from_options(**REQUIRED)
    assert config.losses == DEFAULT_LOSSES
    assert {term.name for term in read_terms(config.losses)} == set(DEFAULT_LOSSES) <= set(LOSSES)
    assert yaml.safe_load(config.dump())["loss"] == DEFAULT_LOSSES


def test_texts_of_losses_survive_a_round_trip() -> None:
    losses = {
        "sp": 1e-5,
        "at": {"weight": 1, "squared": False},
        "dist": {"weight": 1, "eps": 1e-8},
        "ce": 0.1,
        "kd": {"weight": 0.9, "temperature": 4.0},
        "review": {"weight": 5, "levels": [4, 2], "mid_channels": 8},
    }
    assert parse_losses(format_losses(losses)) == losses


def test_numbers_are_read_as_python_reads_them() -> None:
    read = parse_losses(["amd=1e4,grid=null,margin=1.2,eps=1e-6", "kd=2,standardise=true"])
    assert read == {
        "amd": {"weight": 1e4, "grid": None, "margin": 1.2, "eps": 1e-6},
        "kd": {"weight": 2, "standardise": True},
    }


def test_paths_and_single_losses_are_taken_from_python(tmp_path) -> None:
    config = DistillConfig.from_options(**{**REQUIRED, "data": tmp_path}, out=tmp_path, loss="ce=1")
    assert (config.data, config.out, config.losses) == (str(tmp_path), str(tmp_path), {"ce": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 5}, "losses are a mapping"),
        ({"epoch": 3}, r"unknown option 'epoch'\. Did you mean 'epochs'"),
        ({"epochs": 0}, "`epochs`: .*greater than 0, got 0"),
        ({"epochs": "many"}, "`epochs`: .*got 'many'"),
        ({"augment": ("flop",)}, "`augment`: .*got 'flop'"),
        ({"milestones": (0.7, 0.2)}, "rising fractions"),
        ({"image_size": 0}, "at least 1 pixel"),
        ({"loss": ["ce"]}, "'ce' has no weight: write ce=auto, or a number, as in ce=1"),
        ({"loss": ["ce 1"]}, "must be NAME=WEIGHT or NAME=WEIGHT,OPTION=VALUE"),
        ({"loss": ["ce=1", "ce=2"]}, "given twice"),
        ({"loss": {"kd": {"T": 2}}}, "'kd' has no weight"),
        ({"schedule": "cosin"}, "`schedule`: .*got 'cosin'"),
    ],
)
def test_bad_options_are_named_in_one_line(options, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        DistillConfig.from_options(**{**REQUIRED, **options})
    assert "\n" not in str(caught.value)


def test_messages_name_parameters_which_become_flags() -> None:
    text = "give `image_size`, or `loader=workers`, or `loss=ce=1`; 'a' and `layer 1` stay"
    assert with_flags(text) == "give --image-size, or --loader workers, or --loss ce=1; 'a' and `layer 1` stay"


def test_missing_options_are_named() -> None:
    with pytest.raises(InputError, match=r"^the option `student` is required; the option `teacher` is required$"):
        DistillConfig.from_options(data="digits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epocs: 3", r"unknown key 'epocs'\. Did you mean 'epochs'"),
        ("- 3", "'option: value' lines"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_bad_yaml_is_named(tmp_path, text, message) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        TrainConfig.load(file)
    with pytest.raises(InputError, match="there is no configuration file"):
        TrainConfig.load(tmp_path / "absent.yaml")


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DistillConfig.from_options(**REQUIRED).epochs = 3


def test_every_option_explains_itself() -> None:
    for kind in (DistillConfig, TrainConfig):
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"
    assert inspect.getdoc(DistillConfig)
