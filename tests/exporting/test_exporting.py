"""Export: every format gives what the student gives, for any number of images, or nothing is put in place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import angularkd
from angularkd import InputError
from angularkd.exporting import FORMATS, Images
from angularkd.inference import as_images

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")


@pytest.fixture(scope="module", autouse=True)
def _short_timing() -> Any:
    from angularkd.exporting import checks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "REPEATS", 2)
        yield


@pytest.fixture(scope="module")
def exported(digits_teacher, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("onnx") / "new"
    return angularkd.export(digits_teacher, int8=True, out=out, check_most=100), out


def images(count: int, size: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("form", ["onnx", "torch-export", "openvino", "safetensors"])
def test_a_file_gives_what_the_student_gives_for_any_number_of_images(form, digits_teacher, exported, tmp_path) -> None:
    if form == "openvino":
        pytest.importorskip("openvino")
    out = exported[1]
    if form != "onnx":
        out = tmp_path / "new"
        report = angularkd.export(digits_teacher, format=form, out=out, check_most=50)
        assert report["figures"]["exported"]["equal_top1"] == 1
    eager, file = angularkd.load(digits_teacher, device="cpu"), angularkd.load(out)
    assert file.source.endswith(FORMATS[form].file) or file.source == str(out)
    assert file.classes == eager.classes
    for count in (1, 2, 7):
        batch = images(count)
        assert torch.allclose(file.probabilities(batch), eager.probabilities(batch), atol=1e-4)


def test_the_report_stands_beside_the_file_and_in_the_card(exported) -> None:
    report, out = exported
    stored = json.loads((out / "export.json").read_text())
    assert stored["figures"] == report["figures"]
    figures = stored["figures"]
    assert set(figures) == {"original", "exported", "int8"}
    assert figures["original"]["accuracy"] == figures["exported"]["accuracy"] > 0.5
    assert figures["exported"]["equal_top1"] == 1 and figures["exported"]["images"] == 100
    assert figures["int8"]["bytes"] < figures["exported"]["bytes"]
    for row in figures.values():
        assert set(row["milliseconds"]) == {"1", "32"}
    card = (out / "README.md").read_text()
    for words in ("digits", "Limits", "Licence", "@article", f"{figures['int8']['accuracy']:.2%}"):
        assert words in card
    assert stored["provenance"]["metrics"]["last epoch"]["accuracy"] > 0.5
    assert sorted(path.name for path in out.parent.iterdir()) == ["new"]


def test_the_8_bit_form_reports_what_it_loses_and_classifies(exported, digits_teacher) -> None:
    report, out = exported
    loss = report["figures"]["original"]["accuracy"] - report["figures"]["int8"]["accuracy"]
    assert -0.05 < loss < 0.1 and report["figures"]["int8"]["max_difference"] > 0
    assert "training images" in report["calibrated_on"]
    small = angularkd.load(out / "student.int8.onnx").probabilities(images(5))
    assert torch.allclose(small, angularkd.load(digits_teacher).probabilities(images(5)), atol=0.3)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_with_preprocessing_inside_8_bit_images_become_probabilities(
    layout, untrained_run, photographs, tmp_path
) -> None:
    import onnxruntime

    run, out = untrained_run("cifar/resnet8", 16), tmp_path / "new"
    options = {"include_preprocessing": True, "layout": layout, "check_images": (photographs,)}
    angularkd.export(run, out=out, **options)
    session = onnxruntime.InferenceSession(str(out / "student.onnx"))
    files = sorted(map(str, photographs.iterdir()))
    pixels = (as_images(files, (16, 16)) * 255).round().to(torch.uint8)
    given = pixels.permute(0, 2, 3, 1) if layout == "nhwc" else pixels
    (found,) = session.run(None, {"images": given.contiguous().numpy()})
    expected = angularkd.load(run, device="cpu").probabilities(files)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    assert torch.allclose(angularkd.load(out).probabilities(files), expected, atol=1e-5)


def test_timm_opens_a_timm_student(untrained_run, photographs, tmp_path) -> None:
    import timm

    run, out = untrained_run("timm/test_resnet", 64), tmp_path / "new"
    angularkd.export(run, format="timm", out=out, check_images=(photographs,))
    module = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert list(module.pretrained_cfg["mean"]) == [0.4] * 3 and module.num_classes == 3
    batch = images(2, 64)
    with torch.no_grad():
        found = module((batch - 0.4) / 0.3).softmax(dim=1)
    assert torch.allclose(found, angularkd.load(run, device="cpu").probabilities(batch), atol=1e-5)
    assert torch.allclose(found, angularkd.load(out).probabilities(batch), atol=1e-5)


def test_a_file_that_differs_is_not_put_in_place(untrained_run, photographs, tmp_path, monkeypatch) -> None:
    from angularkd.exporting import proving

    monkeypatch.setattr(proving, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="differs from the student"):
        angularkd.export(
            untrained_run("cifar/resnet8"), format="torch-export", out=tmp_path / "a/new", check_images=(photographs,)
        )
    assert list(tmp_path.iterdir()) == []


def test_first_classes_are_compared_but_for_ties() -> None:
    from angularkd.exporting.checks import compare

    original = torch.tensor([[2.0, 1.0], [1.0, 1.00001], [0.0, 1.0]])
    other = torch.tensor([[1.0, 2.0], [1.00001, 1.0], [0.0, 1.0]])
    pictures = Images("three", lambda: [(torch.zeros(3, 3, 1, 1), torch.tensor([0, 1, 0]))])
    found = compare(lambda images: original, {"other": lambda images: other}, pictures)
    assert found["original"] == {"images": 3, "accuracy": 2 / 3}
    assert found["other"]["equal_top1"] == pytest.approx(2 / 3) and found["other"]["accuracy"] == 0
    assert found["other"]["max_difference"] == 1 and found["other"]["largest_output"] == 2


def test_code_is_run_only_where_it_is_trusted(untrained_run, photographs, tmp_path) -> None:
    code = tmp_path / "net.py"
    lines = (
        "from torch import nn",
        "def net(num_classes):",
        "    return nn.Sequential(nn.Conv2d(3, num_classes, 8), nn.Flatten())",
    )
    code.write_text("\n".join(lines))
    run = untrained_run(f"{code}:net", 8)
    options = {"format": "safetensors", "out": tmp_path / "new", "check_images": photographs}
    with pytest.raises(InputError, match="then allow it with `trust="):
        angularkd.export(run, **options)
    report = angularkd.export(run, **options, trust=str(code))
    assert report["figures"]["exported"]["max_difference"] == 0
    with pytest.raises(InputError, match="then allow it with `trust="):
        angularkd.load(tmp_path / "new")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, "`format`"),
        ({"format": "timm"}, "timm builds no cifar/resnet8: for such a student `format` is onnx"),
        ({"format": "timm", "include_preprocessing": True}, "holds weights alone"),
        ({"format": "openvino", "int8": True}, "`int8` is a form of ONNX"),
        ({"check_images": ("nowhere.png",)}, "there is no image nowhere.png"),
        ({"check_data": "digts"}, "Did you mean 'digits'"),
    ],
)
def test_what_cannot_be_exported_is_answered_in_one_line(options, message, digits_teacher, tmp_path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        angularkd.export(digits_teacher, out=tmp_path / "new", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_read_or_written_are_named(digits_teacher, untrained_run, tmp_path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        angularkd.export(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no student\.safetensors"):
        angularkd.export(tmp_path)
    with pytest.raises(InputError, match="exists: remove it, or give another folder with `out`"):
        angularkd.export(digits_teacher, out=tmp_path)
    with pytest.raises(InputError, match="does not say the data of the run: name DATA with `check_data`"):
        angularkd.export(untrained_run("cifar/resnet8"), out=tmp_path / "new")


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_without_a_library_the_extra_is_named(absent, untrained_run, photographs, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=r"pip install 'angularkd\[export\]'"):
        angularkd.export(untrained_run("cifar/resnet8"), out=tmp_path / "new", check_images=(photographs,))
    assert list(tmp_path.iterdir()) == []
