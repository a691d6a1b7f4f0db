"""What describes weights: every form that is in use, and one line for JSON that is not what is meant."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file

from angularkd import InputError
from angularkd.models import NORMALIZATIONS, Preprocessing, cifar, open_classifier, read_metadata
from angularkd.runs import Description, StudentMetadata, parse_description

MEAN, STD = NORMALIZATIONS["cifar10"]


def described(**values) -> Description:
    return parse_description(json.dumps(values), "a.json")


def test_what_a_run_writes_is_read_back() -> None:
    written = StudentMetadata("cifar/resnet8", ["a", "b"], [8, 9], list(MEAN), list(STD), (16, 17), "2.8")
    found = described(**written.as_dict())
    assert (found.model, found.classes, found.image_size, found.resize) == (
        "cifar/resnet8",
        ("a", "b"),
        (8, 9),
        (16, 17),
    )
    assert (found.mean, found.std, found.channels, found.temperature) == (MEAN, STD, None, None)
    assert described(**{**written.as_dict(), "temperature": 1.5}).temperature == 1.5


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "warm"])
def test_a_temperature_that_cannot_be_is_named(temperature) -> None:
    with pytest.raises(InputError, match="says temperature:"):
        described(temperature=temperature)


@pytest.mark.parametrize(
    "values",
    [
        {"input_size": [3, 32, 24], "mean": MEAN, "std": STD},
        {"architecture": "x", "pretrained_cfg": {"input_size": [3, 32, 24], "mean": MEAN, "std": STD, "crop_pct": 1}},
        {"input": {"size": [3, 32, 24], "mean": MEAN, "std": STD}},
        {"input": {"size": [32, 24], "mean": MEAN, "std": STD}, "input_size": None},
        {"image_size": [32, 24], "mean": MEAN, "std": STD},
    ],
)
def test_every_usual_form_gives_the_size_of_the_images_and_no_resizing(values) -> None:
    found = described(**values)
    assert (found.image_size, found.resize, found.mean, found.std) == ((32, 24), None, MEAN, STD)


def test_one_number_is_that_of_every_channel() -> None:
    found = described(mean=0.5, std=[0.25], image_size=32)
    assert (found.mean, found.std, found.image_size) == ((0.5,) * 3, (0.25,) * 3, (32, 32))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "null",
        "[1, 2]",
        "3",
        '"text"',
        "[" * 100_000,
        '{"mean": "abc", "std": [1, 1, 1]}',
        '{"mean": [NaN, 0, 0], "std": [1, 1, 1]}',
        '{"mean": [0, 0, 0], "std": [1, 1, Infinity]}',
        '{"mean": {"r": 1}, "std": [1, 1, 1]}',
        '{"mean": [], "std": []}',
        '{"mean": [0, 0, 0]}',
        '{"std": [1, 1, 1]}',
        '{"classes": "abc"}',
        '{"classes": [1, 2]}',
        '{"classes": {"a": 1}}',
        '{"image_size": "abc"}',
        '{"image_size": [0, 8]}',
        '{"image_size": [8]}',
        '{"image_size": [8, 1000000]}',
        '{"input_size": [8]}',
        '{"input_size": "3x32"}',
        '{"input_size": [3, 32, "a"]}',
        '{"input_size": [1.5, 2.5]}',
        '{"channels": [[1, 0]]}',
    ],
)
def test_json_that_is_not_what_is_meant_is_one_line(text) -> None:
    with pytest.raises(InputError, match=r"^a\.json ") as caught:
        parse_description(text, "a.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((1e30, 0.0, 0.0), (1.0,) * 3, "a mean is no more than 10"),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "divide those of 0..255 by 255"),
        ((0.0,) * 3, (1e-30, 1.0, 1.0), "a standard deviation is between"),
        ((0.0,) * 3, (0.0, 1.0, 1.0), "a standard deviation is between"),
        ((0.0,) * 3, (-1.0, 1.0, 1.0), "a standard deviation is between"),
        ((float("nan"), 0.0, 0.0), (1.0,) * 3, "no finite numbers"),
        ((0.0,) * 3, (1.0,) * 2, "for each of 3 channels"),
    ],
)
def test_a_normalization_that_no_network_was_trained_with_is_refused(tmp_path, mean, std, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Preprocessing(mean, std)
    assert "\n" not in str(caught.value)
    if len(std) == 3:
        text = "/".join(",".join(map(str, values)) for values in (mean, std))
        with pytest.raises(InputError, match="normalization"):
            open_classifier("cifar/resnet8", 10, normalization=text)
    save_file(cifar.create("resnet8", 10).state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"mean": mean, "std": std}))
    with pytest.raises(InputError, match=r"a\.(safetensors|json)"):
        open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("text", ["{", "null", "[]", '{"mean": "abc", "std": 1}', '{"mean": [NaN], "std": [1]}'])
def test_metadata_inside_of_a_file_is_held_to_the_same(tmp_path, text) -> None:
    save_file(cifar.create("resnet8", 10).state_dict(), tmp_path / "student.safetensors", {"angularkd": text})
    for call in (
        lambda: open_classifier(str(tmp_path), 10),
        lambda: open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "student.safetensors")),
        lambda: read_metadata(tmp_path / "student.safetensors"),
    ):
        with pytest.raises(InputError, match=r"the metadata in .*student\.safetensors") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_weights_with_timms_json_beside_them_get_images_of_their_size(tmp_path) -> None:
    save_file(cifar.create("resnet8", 10).state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"input_size": [3, 32, 32], "mean": MEAN, "std": STD}))
    classifier = open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.safetensors"))
    assert (classifier.image_size, classifier.preprocessing.size) == ((32, 32), None)


def test_names_of_other_classes_than_the_weights_have_are_not_used_and_said(tmp_path) -> None:
    save_file(cifar.create("resnet8", 10).state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"classes": ["a", "b"]}))
    classifier = open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.safetensors"))
    assert classifier.classes is None
    assert any("names 2 classes and its weights tell apart 10" in note for note in classifier.notes)
