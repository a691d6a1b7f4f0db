"""What image processors of transformers do to colours: the same pixels as the library's own, of every family that classifies images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from angularkd import InputError
from angularkd.models import open_classifier
from angularkd.models.libraries.processors import preprocessing_of

transformers = pytest.importorskip("transformers")

NO_GEOMETRY = ("do_resize", "do_center_crop", "do_pad", "do_thumbnail", "do_align_long_axis")
TAKE_NO_IMAGES = {"imagegpt", "siglip2"}
"""Families whose networks take tokens or patches."""


def families() -> list[tuple[str, str]]:
    """Every family that classifies images, with the default processors of its kind that this version has."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as PROCESSORS
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as MODELS

    found = []
    for family in MODELS:
        names = PROCESSORS.get(family) or ()
        names = names.values() if isinstance(names, dict) else names
        found += [(family, name) for name in names if name and family != "timm_wrapper"]
    return found


def built(name: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, name)(**options)


def picture(side: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def as_images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def theirs(processor: Any, pixels: np.ndarray) -> torch.Tensor:
    """The processor's own pixels, without what it does to the size."""
    plain = {name: False for name in NO_GEOMETRY if hasattr(processor, name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return processor(images=Image.fromarray(pixels), return_tensors="pt", **plain)["pixel_values"]


@pytest.mark.parametrize(("family", "name"), families())
def test_pixels_are_those_of_the_familys_own_processor(family, name) -> None:
    processor = built(name)
    if family in TAKE_NO_IMAGES:
        with pytest.raises(InputError, match=f"the image processor of hf/{family} gives no images"):
            preprocessing_of(processor, f"hf/{family}")
        return
    pixels = picture()
    torch.testing.assert_close(
        preprocessing_of(processor, family)(as_images(pixels)), theirs(processor, pixels), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViTImageProcessor", {"image_mean": 0.5, "image_std": 0.25}),
        ("ViTImageProcessor", {"do_normalize": None}),
        ("ViTImageProcessor", {"do_normalize": False}),
        ("ViTImageProcessor", {"do_rescale": False}),
        ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}),
        ("EfficientNetImageProcessor", {"rescale_offset": True}),
        ("EfficientNetImageProcessor", {"include_top": False}),
        ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
    ],
)
def test_pixels_are_those_of_a_processor_set_otherwise(name, options) -> None:
    processor, pixels = built(name, **options), picture()
    found = preprocessing_of(processor, name)(as_images(pixels))
    torch.testing.assert_close(found, theirs(processor, pixels).to(found.dtype), rtol=1e-4, atol=1e-4)


def test_usual_numbers_come_as_they_are_written() -> None:
    processor = built("ViTImageProcessor", image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    found = preprocessing_of(processor, "hf/x")
    assert (found.mean, found.std, found.channels) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels**2, "does to colours what no mean and standard deviation of each channel do"),
        (lambda pixels: -pixels, "does to colours what no mean"),
        (lambda pixels: pixels * 0, "does to colours what no mean"),
        (lambda pixels: pixels[:, 0], "gives no images"),
        (lambda pixels: pixels / 0, "hf/x"),
    ],
)
def test_what_is_no_normalisation_is_refused(change, message) -> None:
    processor = built("ViTImageProcessor")

    def strange(**options: Any) -> dict[str, torch.Tensor]:
        return {"pixel_values": change(processor(**options)["pixel_values"])}

    with pytest.raises(InputError, match=message) as caught:
        preprocessing_of(strange, "hf/x")
    assert "\n" not in str(caught.value)


@pytest.fixture
def mobilevit(tmp_path) -> Path:
    torch.manual_seed(0)
    config = transformers.MobileViTConfig(
        image_size=32,
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 4, 4, 4, 4, 4],
        num_hidden_layers=1,
        num_labels=5,
    )
    transformers.MobileViTForImageClassification(config).save_pretrained(tmp_path)
    processor = built("MobileViTImageProcessor", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_a_model_of_blue_green_red_gets_them(mobilevit) -> None:
    classifier = open_classifier(f"hf/{mobilevit}", 5, pretrained=True)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert classifier.preprocessing(red)[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert "BGR" in str(classifier.preprocessing)
    pixels, module = picture(32), classifier.module.eval()
    processor = transformers.AutoImageProcessor.from_pretrained(mobilevit)
    torch.testing.assert_close(classifier.predict(as_images(pixels)), module(theirs(processor, pixels)))
    given = open_classifier(f"hf/{mobilevit}", 5, pretrained=True, normalization="half")
    assert given.preprocessing(red)[0, :, 0, 0].tolist() == [-1.0, -1.0, 1.0]


def test_a_damaged_processor_is_told_not_passed_over(mobilevit) -> None:
    (mobilevit / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config\.json cannot be used .*: mend or remove it") as caught:
        open_classifier(f"hf/{mobilevit}", 5, pretrained=True)
    assert "\n" not in str(caught.value)
    (mobilevit / "preprocessor_config.json").unlink()
    assert open_classifier(f"hf/{mobilevit}", 5, pretrained=True).preprocessing is None


def test_code_beside_the_weights_is_never_run(mobilevit, monkeypatch) -> None:
    ran = mobilevit / "ran"
    (mobilevit / "extra.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    config = (mobilevit / "config.json").read_text()
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append("asked") or "y")
    for kind in ("AutoConfig", "AutoModelForImageClassification"):
        text = config.replace('"model_type": "mobilevit"', '"model_type": "own"')
        text = text.replace("{", f'{{"auto_map": {{"{kind}": "extra.Own"}},', 1)
        (mobilevit / "config.json").write_text(text)
        with pytest.raises(InputError, match="hf/") as caught:
            open_classifier(f"hf/{mobilevit}", 5, pretrained=True)
        assert "\n" not in str(caught.value)
    assert not ran.exists() and not asked


def test_weights_that_transformers_renames_fit_from_their_own_file(mobilevit, tmp_path) -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32, num_labels=5
    )
    folder = tmp_path / "vit"
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    whole = open_classifier(f"hf/{folder}", 5, pretrained=True).module.state_dict()
    for count, file in ((5, None), (7, str(folder / "model.safetensors"))):
        found = open_classifier(f"hf/{folder}", count, pretrained=file is None, weights=file)
        assert found.num_classes == 5
        assert all(torch.equal(value, whole[name]) for name, value in found.module.state_dict().items())
