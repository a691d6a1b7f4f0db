"""From a SPEC to a classifier with its preprocessing."""

from __future__ import annotations

import pytest
import torch

from angularkd import InputError
from angularkd.models import (
    Preprocessing,
    cifar,
    fingerprint,
    model_names,
    offers_weights,
    open_classifier,
    save_weights,
)
from angularkd.models.preprocessing import parse_normalization

OWN_MODEL = """
import torch
def build(num_classes):
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                               torch.nn.Linear(4, num_classes))
def broken():
    return 3
def raising(num_classes):
    raise KeyError("width")
"""


@pytest.mark.parametrize("spec", ["cifar/resnet8", "torchvision/squeezenet1_0", "timm/test_resnet"])
def test_every_library_builds_a_classifier_of_the_asked_classes(spec) -> None:
    classifier = open_classifier(spec, 7)
    assert classifier.num_classes == 7
    assert not classifier.pretrained
    assert classifier.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_model_of_ones_own(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_MODEL)
    assert open_classifier(f"{file}:build", 5).module(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    for spec, message in (
        (f"{file}:biuld", r"no callable 'biuld'\. Did you mean 'build'"),
        (f"{file}:broken", "returned a int"),
        (f"{file}:raising", r"failed at line 9 of .*mine.py: KeyError: 'width'"),
        (f"{tmp_path}/other.py:build", "there is no file"),
    ):
        with pytest.raises(InputError, match=message):
            open_classifier(spec, 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar/resnet21", "Did you mean 'resnet20'|'resnet2"),
        ("timm/resnet51", "timm has no model 'resnet51'. Did you mean 'resnet"),
        ("torchvision/resnet51", "torchvision has no classifier 'resnet51'. Did you mean 'resnet"),
        ("resnet20", "names no model. Did you mean 'cifar/resnet20'"),
        ("tim/resnet18", "names no model"),
        ("cifar/", "names no model"),
    ],
)
def test_unknown_names_get_their_nearest(spec, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_classifier(spec, 10)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_student_is_no_model(tmp_path) -> None:
    with pytest.raises(InputError, match=r"holds no student.safetensors"):
        open_classifier(str(tmp_path), 10)


def test_a_runs_folder_is_a_model_with_its_preprocessing_and_classes(tmp_path) -> None:
    model = cifar.create("resnet8", 3)
    metadata = {"model": "cifar/resnet8", "classes": ["a", "b", "c"], "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    save_weights(tmp_path / "student.safetensors", model, metadata)
    classifier = open_classifier(str(tmp_path), 10)
    assert fingerprint(classifier.module) == fingerprint(model)
    assert (classifier.num_classes, classifier.classes, classifier.pretrained) == (3, ("a", "b", "c"), True)
    assert classifier.architecture == "cifar/resnet8"
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_weights_keep_the_number_of_classes_they_were_trained_for(tmp_path) -> None:
    model = cifar.create("resnet8", 5)
    save_weights(tmp_path / "a.safetensors", model, {})
    classifier = open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.safetensors"))
    assert classifier.num_classes == 5
    assert fingerprint(classifier.module) == fingerprint(model)
    torch.manual_seed(1)
    renewed = open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.safetensors"), new_head=True)
    assert renewed.num_classes == 10
    assert torch.equal(renewed.module.conv1.weight, model.conv1.weight)
    assert renewed.module.linear.weight.shape == (10, 64)


def test_weights_of_another_architecture_are_refused(tmp_path) -> None:
    save_weights(tmp_path / "a.safetensors", cifar.create("resnet14", 10), {})
    with pytest.raises(InputError, match=r"does not fit a ResNet: 36 unexpected: layer1.1"):
        open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.safetensors"))


def test_pretrained_weights_that_cannot_be_fetched_are_one_line(monkeypatch) -> None:
    def unreachable(*_args, **_options):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(InputError, match=r"could not be had .no route to host.: fetch them") as caught:
        open_classifier("timm/resnet18", 10, pretrained=True)
    assert "\n" not in str(caught.value)


def test_timm_models_know_the_size_they_are_made_for_and_the_classes_of_imagenet(monkeypatch) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained, **more: create(name, pretrained=False, **more))
    classifier = open_classifier("timm/test_vit", 10, pretrained=True)
    assert (classifier.num_classes, classifier.image_size, classifier.native_size) == (1000, (160, 160), (160, 160))
    assert classifier.classes[0] == "n01440764" and len(classifier.classes) == 1000
    renewed = open_classifier("timm/test_vit", 10, pretrained=True, new_head=True)
    assert (renewed.num_classes, renewed.classes, renewed.pretrained) == (10, None, True)
    fresh = open_classifier("timm/test_vit", 10)
    assert (fresh.image_size, fresh.native_size, fresh.classes) == (None, (160, 160), None)


def test_torchvision_models_get_a_new_head_on_the_pretrained_body(monkeypatch) -> None:
    import torchvision

    torch.manual_seed(0)
    pretrained = torchvision.models.squeezenet1_1()
    build = torchvision.models.get_model
    monkeypatch.setattr(
        "torchvision.models.get_model", lambda name, **more: pretrained if "weights" in more else build(name, **more)
    )
    classifier = open_classifier("torchvision/squeezenet1_1", 10, pretrained=True)
    assert (classifier.num_classes, classifier.classes[0], classifier.image_size) == (1000, "tench", (224, 224))
    renewed = open_classifier("torchvision/squeezenet1_1", 10, pretrained=True, new_head=True)
    assert (renewed.num_classes, renewed.classes, renewed.pretrained) == (10, None, True)
    assert renewed.module.classifier[1].weight.shape[0] == 10
    assert fingerprint(renewed.module.features) == fingerprint(pretrained.features)
    assert renewed.preprocessing == classifier.preprocessing


def test_which_specs_offer_weights(tmp_path) -> None:
    specs = ("timm/x", "torchvision/x", "hf/x", "cifar/x", "mine.py:build", str(tmp_path))
    assert [offers_weights(spec) for spec in specs] == [True, True, True, False, False, False]


def test_preprocessing_is_the_usual_formula() -> None:
    images = torch.rand(2, 3, 8, 8)
    done = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))(images)
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), strict=True)):
        torch.testing.assert_close(done[:, channel], (images[:, channel] - mean) / std)
    assert Preprocessing((0.0,) * 3, (1.0,) * 3, (5, 9))(images).shape == (2, 3, 5, 9)


def test_normalizations_by_name_and_by_number() -> None:
    assert parse_normalization("imagenet")[0] == (0.485, 0.456, 0.406)
    assert parse_normalization("0,0.5,1/1,2,3") == ((0.0, 0.5, 1.0), (1.0, 2.0, 3.0))
    for text in ("imagenett", "1,2,3", "1,2/3,4", "0,0,0/1,1,0"):
        with pytest.raises(InputError, match="normalization"):
            parse_normalization(text)


def test_names_by_pattern() -> None:
    assert "cifar/resnet20" in model_names("cifar/*")
    assert model_names("torchvision/resnet18") == ["torchvision/resnet18"]
    assert len(model_names("timm/resnet*")) > 20
