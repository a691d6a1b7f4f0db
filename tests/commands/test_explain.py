"""The explain command: its figure, its numbers, and what it says to what it cannot show."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import angularkd
from angularkd import AMDLoss, InputError
from angularkd.cli import main
from angularkd.commands.explain import caption_of
from angularkd.config import ExplainConfig
from angularkd.explanation import PARTINGS, explain_image
from angularkd.explanation.maps import PARTS
from angularkd.models import cifar, save_weights
from traced import pairs_of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    torch.manual_seed(0)
    save_weights(folder / "teacher.safetensors", cifar.create("resnet14", 7), {})
    return folder


def options(files, **more) -> dict:
    weights = str(files / "teacher.safetensors")
    models = {"teacher": "cifar/resnet14", "teacher_weights": weights, "student": "cifar/resnet8"}
    return {"image": str(files / "image.png"), **models, **more}


def test_the_figure_shows_every_map(files, tmp_path) -> None:
    angularkd.explain(**options(files, out=str(tmp_path / "plain.png")))
    found = angularkd.explain(**options(files, out=str(tmp_path / "a.png"), margins=(1.0, 1.5), parts=True))
    assert [pair.teacher.path for pair in found.pairs] == ["layer1", "layer2", "layer3"]
    plain, drawn = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("plain.png", "a.png"))
    assert plain.shape[0] > 600 and plain.shape[1] > 800
    assert drawn.shape[0] > 3 * plain.shape[0] and drawn.shape[1] == plain.shape[1]
    assert found.alike == pytest.approx(
        [F.cosine_similarity(t.attention.flatten(), s.attention.flatten(), dim=0).item() for t, s in found.stages],
        abs=1e-4,
    )
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 500
    for teacher, student in found.stages:
        for maps in (teacher, student):
            assert maps.attention.square().sum().item() == pytest.approx(1.0, abs=1e-4)
            assert set(maps.by_margin) == {1.0, 1.5}
            torch.testing.assert_close(maps.by_margin[1.0][1], 64 * maps.attention, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(maps.by_margin[1.5][2], 64 * (1 - maps.attention))


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_other_formats(files, tmp_path, kind) -> None:
    out = tmp_path / f"a.{kind}"
    angularkd.explain(**options(files, out=str(out), pairs="layer3:layer3"))
    assert out.read_bytes()[:5] in (b"%PDF-", b"<?xml")


def test_the_command_prints_the_numbers_and_writes_them(files, tmp_path, capsys) -> None:
    given = options(files)
    flags = [given.pop("image")] + [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    out, numbers = tmp_path / "new" / "a.png", tmp_path / "a.json"
    main(["explain", *flags, "--attention", "max", "--out", str(out), "--json-file", str(numbers)])
    printed = capsys.readouterr().out
    assert "alike" in printed and "cos angular" not in printed and str(out) in printed and out.exists()
    assert set(json.loads(numbers.read_text())["cosines"]) == {"1.35"}
    more = ["--parts", "--margins", "1", "1.35", "2"]
    main(["explain", *flags, "--attention", "max", "--out", str(out), "--json-file", str(numbers), *more])
    assert "cos angular, positive" in capsys.readouterr().out
    written = json.loads(numbers.read_text())
    assert (
        written["attention"] == "max" and len(written["alike"]) == 3 and set(written["cosines"]) == {"1", "1.35", "2"}
    )
    assert all(
        len(rows) == 4 and all(-1.001 <= c <= 1.001 for row in rows for c in row)
        for rows in written["cosines"].values()
    )


def test_cosines_are_those_of_the_parts_gradients() -> None:
    torch.manual_seed(0)
    teacher, student = cifar.create("resnet14", 10).eval(), cifar.create("resnet8", 10).eval()
    image = torch.rand(1, 3, 16, 16)
    found = explain_image(teacher, student, image, image, pairs_of(teacher, student, image, "layer2:layer2"), (1.35,))
    maps = []
    for model in (student, teacher):
        model.layer2.register_forward_hook(lambda _m, _i, output: maps.append(output.square().sum(1).detach()))
        model(image)
    student_map = maps[0].requires_grad_()
    parts = slow_parts(student_map, maps[1], 1.35)
    gradients = {
        name: torch.autograd.grad(part, student_map, retain_graph=True)[0].flatten() for name, part in parts.items()
    }
    assert PARTINGS == (("angular", "positive"), ("angular", "negative"), ("positive", "negative"))
    for value, (a, b) in zip(found.cosines[1.35][0], PARTINGS, strict=True):
        expected = torch.cosine_similarity(gradients[a], gradients[b], dim=0, eps=0).item()
        assert value == pytest.approx(expected, abs=1e-4)
    by_name = dict(zip(PARTS, AMDLoss().by_map([maps[0]], [maps[1]]).tolist(), strict=True))
    assert by_name == pytest.approx({name: part.item() for name, part in parts.items()}, rel=1e-3)
    assert found.distance[1.35][0] == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-3)
    assert found.distance[1.35][0] == pytest.approx(AMDLoss()([maps[0]], [maps[1]]).item(), rel=1e-4)


def slow_parts(student: Tensor, teacher: Tensor, margin: float) -> dict[str, Tensor]:
    """The parts of AMD between two maps P [1, height, width], written once more from their formulas, in float64."""

    def maps(power_map: Tensor) -> dict[str, Tensor]:
        q = power_map.double() / (power_map.double().norm() + 1e-6)
        positive, negative = 64 * torch.cos(margin * torch.arccos(q)), 64 * (1 - q)
        return {"negative": negative, "angular": F.logsigmoid(positive - negative), "positive": positive}

    of_student, of_teacher = maps(student), maps(teacher)
    return {
        name: (s / s.norm() - of_teacher[name] / of_teacher[name].norm()).square().mean() / 3
        for name, s in of_student.items()
    }


def test_the_caption_says_what_is_seen_to_somebody_who_does_not_know_amd(files) -> None:
    config = ExplainConfig.from_options(**options(files))
    found = angularkd.explain(**options(files, out=str(files / "caption.png")))
    text = caption_of(config, found)
    least = min(found.alike)
    assert (
        f"differ most at stage {found.alike.index(least) + 1} (alike: {least:.2f}" in text
        and "bright positions" in text
    )


def test_a_student_that_is_its_teacher_has_no_direction_to_go() -> None:
    model = cifar.create("resnet8", 10).eval()
    image = torch.rand(1, 3, 16, 16)
    found = explain_image(model, model, image, image, pairs_of(model, model, image), (1.35,))
    assert all(value == 0 for value in found.distance[1.35])
    assert all(math.isnan(cosine) for row in found.cosines[1.35] for cosine in row)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image": "nowhere.png"}, "there is no image nowhere.png"),
        ({"image": __file__}, r"cannot decode .*test_explain\.py"),
        ({"out": "figure.txt"}, r"\.png, \.svg, \.pdf, not 'figure.txt'"),
        ({"margins": ()}, "one or more different numbers"),
        ({"margins": (1.0, -1.0)}, "one or more different numbers"),
        ({"teacher_weights": None}, "no trained weights"),
        ({"attention": "gradcma"}, "Did you mean 'gradcam'"),
        ({"pairs": "layer2:layr2"}, "no module 'layr2'.*'layer2'"),
        ({"image_size": 0}, "at least 1 pixel"),
        ({"json_file": "/dev/null/a.json"}, "`json_file`"),
    ],
)
def test_what_cannot_be_shown_is_named(files, tmp_path, monkeypatch, more, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        angularkd.explain(**{**options(files), **more})
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(files, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'angularkd\[figures\]'"):
        angularkd.explain(**options(files))
