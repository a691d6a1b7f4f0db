"""Every number has a range, every text a length, and nothing is taken for something else than it looks like."""

from __future__ import annotations

import datetime
import json

import pytest
from pydantic.fields import FieldInfo

from angularkd import InputError
from angularkd.cli.parsing import parse
from angularkd.config import (
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    TrainConfig,
    format_losses,
    parse_losses,
)

BASE = {
    TrainConfig: {"data": "digits", "model": "cifar/resnet8"},
    DistillConfig: {"data": "digits", "teacher": "a", "student": "b"},
    EvaluateConfig: {"data": "digits", "model": "a"},
    ExplainConfig: {"image": "a.png", "teacher": "a", "student": "b"},
    DemoConfig: {},
}
NUMBERS = ("int", "float")
FIELDS = [(kind, name, field) for kind in BASE for name, field in kind.model_fields.items()]


def is_number(field: FieldInfo) -> bool:
    return any(word in str(field.annotation) for word in NUMBERS) and "Literal" not in str(field.annotation)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, field in FIELDS if is_number(field)])
@pytest.mark.parametrize("value", [10**30, 10**400, 10.0**300, float("inf"), float("nan"), True, -1, "9" * 5000])
def test_numbers_have_a_range(kind, name, value) -> None:
    value = (value,) if "tuple[float" in str(kind.model_fields[name].annotation) else value
    with pytest.raises(InputError, match=f"`{name}`") as caught:
        kind.from_options(**{**BASE[kind], name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_has_a_least_alpha(name) -> None:
    with pytest.raises(InputError, match=f"`{name}`: must be 0 for none, or 0.001 or more, got 1e-308"):
        TrainConfig.from_options(**BASE[TrainConfig], **{name: 1e-308})
    assert getattr(TrainConfig.from_options(**BASE[TrainConfig], **{name: 0.001}), name) == 0.001


TEXTS = [
    (kind, name) for kind, name, field in FIELDS if "str" in str(field.annotation) and name not in ("loss", "trust")
]


@pytest.mark.parametrize(("kind", "name"), TEXTS)
@pytest.mark.parametrize(("text", "message"), [("a\0b", "NUL"), ("x" * 5000, "5,000 characters")])
def test_texts_have_no_nul_and_an_end(kind, name, text, message) -> None:
    value = (text,) if "tuple" in str(kind.model_fields[name].annotation) else text
    with pytest.raises(InputError, match=f"`{name}` .*{message}"):
        kind.from_options(**{**BASE[kind], name: value})


FILES = {
    *("model", "teacher", "student", "data", "image"),
    *("weights", "teacher_weights", "student_weights", "classes", "teacher_classes"),
    *("cache", "out", "json_file"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name in TEXTS if name in FILES])
@pytest.mark.parametrize("text", ["x" * 256, "é" * 128, "a/" * 2000, "a/" + "x" * 300 + "/b", ""])
def test_names_of_files_are_such_as_file_systems_take(kind, name, text) -> None:
    with pytest.raises(InputError, match=f"`{name}`: (names of files have at most 255 bytes|is empty)"):
        kind.from_options(**{**BASE[kind], name: text})
    assert kind.from_options(**{**BASE[kind], name: "x" * 255})


def test_a_pattern_of_shards_may_be_longer_than_a_name() -> None:
    pattern = f"shards:a-{{{','.join(f'{n:04}' for n in range(100))}}}.tar"
    assert TrainConfig.from_options(**{**BASE[TrainConfig], "data": pattern}).data == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: yes", "`epochs` is neither true nor false"),
        ("image_size: [true, 8]", "`image_size` is neither true nor false"),
        ("data: off", "`data` is neither true nor false"),
        ("epochs: 1:30", "`epochs`: .*got '1:30'"),
        ("epochs: 0x10", "`epochs`: .*got '0x10'"),
        ("epochs: 2020-01-01", "`epochs`: .*got '2020-01-01'"),
        ("epochs: !!binary aGVsbG8=", "tag"),
        ("epochs: [1]", "`epochs`"),
        ("epochs: {a: 1}", "`epochs`"),
        ("epochs: 1\nepochs: 2", "'epochs' is given twice"),
        ("loss: {ce: 1, ce: 2}", "'ce' is given twice"),
        ("loss: {}", "empty"),
        ("loss: 5", "losses are a mapping"),
        ("loss: {kd: ~}", "has no weight"),
        ("out: 5", "`out`: .*string"),
        ("1: 2", "unknown key '1'"),
        ("? [a]\n: 2", "is not YAML"),
        ("epochs: " + "9" * 400, "`epochs`: .*less than or equal to"),
        ("epochs: " + "9" * 5000, "`epochs`: "),
        ("[" * 2000, "is not YAML"),
        ("a: &a [*a]", "is not YAML"),
    ],
)
def test_odd_values_of_files_are_refused_in_one_line(tmp_path, text, message) -> None:
    (tmp_path / "a.yaml").write_text(text)
    arguments = ["--config", str(tmp_path / "a.yaml"), "--teacher", "a", "--student", "b"]
    with pytest.raises(InputError, match=message) as caught:
        parse(DistillConfig, "plan", [*arguments, *([] if text.startswith("data") else ["digits"])])
    assert "\n" not in str(caught.value)


def test_octal_numbers_are_decimal_as_they_are_as_flags(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 010\nlr: 1e-2\nseed: 1_000\n")
    config = parse(TrainConfig, "train", ["digits", "--model", "a", "--config", str(tmp_path / "a.yaml")])
    assert (config.epochs, config.lr, config.seed) == (10, 0.01, 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kd=1,temperature=4,temperature=4", "'kd' is given its temperature twice"),
        ("kd=1,weight=2", "'kd' is given its weight twice"),
    ],
)
def test_an_option_of_a_loss_is_given_once(text, message) -> None:
    with pytest.raises(InputError, match=message):
        parse_losses([text])


@pytest.mark.parametrize(
    "text", ["kd=1,T=" + "[" * 3000, "kd=1,T=2020-01-01", "kd=1,T=1:30", "kd=1,T=!!binary aa", "kd=1,T=&a [*a]"]
)
def test_what_is_no_value_of_a_loss_stays_a_word(text) -> None:
    assert isinstance(parse_losses([text])["kd"]["T"], str)


@pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), b"4", 1j, {1, 2}, object()])
def test_options_of_losses_are_plain(value) -> None:
    with pytest.raises(InputError, match="T of loss 'kd' must be a number, a word"):
        format_losses({"kd": {"weight": 1, "T": value}})
    with pytest.raises(InputError, match="weight of loss 'kd' must be a number, a word"):
        DistillConfig.from_options(**BASE[DistillConfig], loss={"kd": value})


def test_recursive_values_are_refused() -> None:
    inner: list[object] = []
    inner.append(inner)
    with pytest.raises(InputError, match="T of loss 'kd' must be"):
        format_losses({"kd": {"weight": 1, "T": inner}})
    with pytest.raises((ValueError, RecursionError)):
        json.dumps(inner)
