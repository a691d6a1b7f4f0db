"""Models of transformers: logits, paths, names and preprocessing as the folder of save_pretrained says; offline."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

import angularkd
from angularkd import Distiller, InputError
from angularkd.models.opening import open_classifier
from angularkd.models.weights import fingerprint

pytest.importorskip("transformers")
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorFast,
)

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
SMALL_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic"}
SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    names = dict(enumerate(("ant", "bee", "cow")))
    ViTForImageClassification(
        ViTConfig(**SMALL_VIT, image_size=32, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()})
    ).save_pretrained(root / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD).save_pretrained(root / "vit")
    ResNetForImageClassification(ResNetConfig(**SMALL_RESNET, num_labels=10)).save_pretrained(root / "resnet")
    ResNetModel(ResNetConfig(**SMALL_RESNET)).save_pretrained(root / "body")
    return root


def test_a_saved_model_gives_logits_and_says_what_it_wants(folders, capfd) -> None:
    classifier = open_classifier(f"hf/{folders}/vit", 7, pretrained=True)
    inner = ViTForImageClassification.from_pretrained(folders / "vit").eval()
    capfd.readouterr()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(classifier.module.eval()(images), inner(images).logits)
    assert classifier.classes == ("ant", "bee", "cow")
    assert (classifier.num_classes, classifier.pretrained) == (3, True)
    assert classifier.image_size == classifier.native_size == (32, 32)
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_nothing_is_printed(folders, capfd) -> None:
    open_classifier(f"hf/{folders}/vit", 7, pretrained=True)
    open_classifier(f"hf/{folders}/resnet", 7)
    assert capfd.readouterr() == ("", "")


def test_without_its_weights_it_has_the_classes_asked_for(folders) -> None:
    classifier = open_classifier(f"hf/{folders}/vit", 7)
    assert (classifier.num_classes, classifier.pretrained, classifier.classes) == (7, False, None)
    assert classifier.image_size is None and classifier.native_size == (32, 32)
    assert classifier.module(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_model_without_a_processor_has_no_preprocessing(folders) -> None:
    classifier = open_classifier(f"hf/{folders}/resnet", 7, pretrained=True)
    assert classifier.preprocessing is None
    assert classifier.classes is None  # LABEL_0, LABEL_1, ... are no names


def test_a_crop_is_the_size_that_it_was_trained_on(folders, tmp_path) -> None:
    ResNetForImageClassification(ResNetConfig(**SMALL_RESNET, num_labels=10)).save_pretrained(tmp_path)
    processor = ViTImageProcessorFast(
        size={"shortest_edge": 40}, crop_size={"height": 36, "width": 36}, do_center_crop=True, do_normalize=False
    )
    processor.save_pretrained(tmp_path)
    classifier = open_classifier(f"hf/{tmp_path}", 10, pretrained=True)
    assert classifier.image_size == (36, 36)
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)


def test_paths_are_those_of_transformers_and_a_copy_gives_logits_too(folders) -> None:
    module = open_classifier(f"hf/{folders}/resnet", 10, pretrained=True).module
    student = open_classifier("cifar/resnet8", 10).module
    images = torch.rand(2, 3, 32, 32)
    pairs = "resnet.encoder.stages.0:layer3"
    distiller = Distiller(module, student, {"kd": 1.0, "amd": 1.0}, pairs=pairs, example=images)
    assert distiller.pairs[0].teacher.path == "resnet.encoder.stages.0"
    distiller(images).total.backward()
    torch.testing.assert_close(copy.deepcopy(module).eval()(images), module.eval()(images))
    exported = torch.export.export(module, (images,)).module()
    torch.testing.assert_close(exported(images), module(images))


def test_a_new_head_keeps_the_body(folders) -> None:
    with_three = open_classifier(f"hf/{folders}/vit", 7, pretrained=True)
    renewed = open_classifier(f"hf/{folders}/vit", 7, pretrained=True, new_head=True)
    assert (renewed.num_classes, renewed.classes) == (7, None)
    assert fingerprint(renewed.module.vit) == fingerprint(with_three.module.vit)


def test_weights_without_a_head_are_refused_unless_it_is_to_be_new(folders) -> None:
    with pytest.raises(InputError, match=r"hold no values for classifier\.1\.bias, classifier\.1\.weight"):
        open_classifier(f"hf/{folders}/body", 5, pretrained=True)
    assert open_classifier(f"hf/{folders}/body", 5, pretrained=True, new_head=True).num_classes == 5


def test_what_is_not_there_is_named(folders, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"there is no folder \./none"):
        open_classifier("hf/./none", 10)
    with pytest.raises(InputError, match="could not be had"):
        open_classifier(f"hf/{folders}", 10)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs transformers: pip install 'angularkd\[hf\]'"):
        open_classifier(f"hf/{folders}/vit", 10)


def test_a_run_trains_one_and_opens_it_again(folders, tmp_path) -> None:
    """At 16 pixels, which the transformer does not take: images are brought to its 32."""
    base = {"data": "digits", "image_size": 16, "batch_size": 64, "epochs": 1, "optimizer": "adamw", "device": "cpu"}
    run = angularkd.train(**base, model=f"hf/{folders}/vit", out=str(tmp_path / "run"))
    expected = run.results["metrics"]["last epoch"]
    again = open_classifier(str(tmp_path / "run"), 10)
    assert again.preprocessing.size == (32, 32)
    assert again.image_size == (16, 16)
    measured = angularkd.evaluate(data="digits", model=str(tmp_path / "run"), device="cpu")
    assert measured["metrics"][str(tmp_path / "run")] == pytest.approx(expected, rel=1e-5)
