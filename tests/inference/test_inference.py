"""Inference: a student classifies images in whatever form exactly as evaluation does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import angularkd
from angularkd import InputError
from angularkd.data import evaluation_loader, load_resident, open_data
from angularkd.inference import Signature, as_images


@pytest.fixture(scope="module")
def student(digits_teacher) -> object:
    return angularkd.load(digits_teacher, device="cpu")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


def test_accuracy_is_that_of_the_run(student, digits_teacher) -> None:
    dataset = open_data("digits", image_size=(8, 8))
    resident = load_resident(dataset.test, (8, 8))
    found = student.predict(list(resident.pixels.numpy()))
    hits = [one.name == dataset.classes[label] for one, label in zip(found, resident.labels.tolist(), strict=True)]
    results = angularkd.evaluate(data="digits", model=str(digits_teacher), image_size=8, device="cpu")
    assert np.mean(hits) == pytest.approx(results["metrics"][str(digits_teacher)]["accuracy"])


def test_probabilities_are_divided_by_the_runs_temperature(student, digits_teacher, pixels) -> None:
    plain = angularkd.load(digits_teacher, device="cpu", calibrated=False)
    logits = plain.outputs(as_images([pixels], (8, 8)))
    results = json.loads((digits_teacher / "results.json").read_text())
    temperature = results["temperature"]["last epoch"]
    assert student.temperature == temperature != 1 and plain.temperature == 1
    assert torch.allclose(student.probabilities(pixels), (logits / temperature).softmax(dim=1))
    assert torch.equal(plain.probabilities(pixels), logits.softmax(dim=1))
    assert student.predict(pixels).classes == plain.predict(pixels).classes


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_signatures_probabilities_are_the_same_whatever_its_file_gives(output) -> None:
    logits = torch.tensor([[4.0, 1.0, -30.0]])
    signature = Signature(classes=("a", "b", "c"), image_size=(8, 8), output=output, temperature=2.5)
    given = logits if output == "logits" else (logits / 2.5).softmax(dim=1)
    assert torch.allclose(signature.probabilities(given), (logits / 2.5).softmax(dim=1))
    assert torch.allclose(signature.probabilities(given, calibrated=False), logits.softmax(dim=1), atol=1e-6)


def test_images_are_those_of_evaluation(tmp_path, pixels) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.roll(pixels, number, 0)).save(tmp_path / "train" / name / f"{number}.png")
    dataset = open_data(str(tmp_path))
    split = dataset.train
    batch = next(evaluation_loader(load_resident(split, (8, 8)), 4).epoch(0)).images
    files = [split.name(index) for index in range(len(batch))]
    assert torch.equal(as_images(files, (8, 8)), batch)


def test_every_form_of_an_image_gives_the_same(student, pixels, tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = student.predict(path)
    assert expected.probabilities == tuple(sorted(expected.probabilities, reverse=True))
    assert sum(expected.probabilities) == pytest.approx(1) and set(expected.classes) == set(map(str, range(10)))
    assert expected.top(1) == {expected.name: expected.probability}
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for form in (str(path), Image.open(path), pixels, tensor, tensor / 255):
        assert student.predict(form) == expected
    for several in ([path, pixels, tensor], np.stack([pixels] * 3), torch.stack([tensor] * 3) / 255):
        found = student.predict(several, batch_size=2)
        assert [one.classes[0] for one in found] == [expected.name] * 3
        assert found[2].probability == pytest.approx(expected.probability, abs=1e-6)


def test_pictures_are_upright_and_in_colour(student, pixels, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif)
    assert student.predict(Image.open(path)) == student.predict(path)
    assert len(student.predict(Image.fromarray(pixels).convert("L")).classes) == 10


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (__file__, "cannot decode .*test_inference.py"),
        ("nowhere.png", "there is no image nowhere.png"),
        ("/dev/null", "cannot read /dev/null"),
        ([], "there are no images"),
        (None, "None is no image: give the path"),
        (np.zeros((4, 4)), "float64 and shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.full((1, 3, 8, 8), 255.0), "in 0..1, these are from 255"),
        (torch.full((3, 8, 8), float("nan")), "in 0..1"),
        (torch.zeros(2, 4, 8, 8), r"not \[batch, 3"),
    ],
)
def test_what_is_no_image_is_named(student, image, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        student.predict(image)
    assert "\n" not in str(caught.value)


def test_what_is_no_student_is_named(tmp_path, digits_teacher) -> None:
    for name in ("text.onnx", "text.pt2", "text.xml", "text.safetensors", "text.txt"):
        (tmp_path / name).write_text("no model")
    for name, message in {
        "nowhere": "there is no run",
        ".": "name the folder of a finished run",
        "text.onnx": r"text\.onnx cannot be opened",
        "text.pt2": r"text\.pt2 cannot be opened",
        "text.xml": r"text\.xml cannot be opened",
        "text.safetensors": "cannot be read",
        "text.txt": "is no exported file",
    }.items():
        if name.endswith(".onnx"):
            pytest.importorskip("onnxruntime")
        if name.endswith(".xml"):
            pytest.importorskip("openvino")
        with pytest.raises(InputError, match=message) as caught:
            angularkd.load(tmp_path / name)
        assert "\n" not in str(caught.value), name


def test_a_file_from_elsewhere_is_refused(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="was not exported by angularkd"):
        angularkd.load(tmp_path / "other.onnx")
    onnx.helper.set_model_props(model, {"angularkd": '{"classes": []}'})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"the metadata in .* cannot be read"):
        angularkd.load(tmp_path / "other.onnx")
