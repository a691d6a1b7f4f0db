"""Which stage teaches which."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from angularkd import Distiller, InputError
from angularkd.features import Stage
from angularkd.features.pairing import MAX_PAIRS, match_stages
from angularkd.models import cifar
from traced import pairs_of, stages_of

NETWORKS: dict[str, tuple[int, dict[str, Any], list[str]]] = {
    "test_vit": (64, {"img_size": 64}, ["blocks.0", "blocks.2", "blocks.3", "blocks.5"]),
    "deit_tiny_distilled_patch16_224": (64, {"img_size": 64, "depth": 4}, [f"blocks.{i}" for i in range(4)]),
    "mixer_s32_224": (
        96,
        {"img_size": 96},
        [f"blocks.{i}" for i in (1, 3, 5, 7)],
    ),
    "xcit_nano_12_p8_224": (64, {"img_size": 64}, [f"blocks.{i}" for i in (2, 5, 8, 11)]),
    "swin_tiny_patch4_window7_224": (
        64,
        {"img_size": 64, "embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)},
        [f"layers.{i}" for i in range(4)],
    ),
    "twins_svt_small": (64, {"img_size": 64, "depths": (2, 2, 2, 2)}, [f"blocks.{i}.1" for i in range(4)]),
    "levit_128s": (128, {"img_size": 128}, ["stem.act1", "stem.act2", "stem.act3", "stages.0", "stages.1", "stages.2"]),
    "test_coatnet": (64, {"img_size": 64}, ["stem", *(f"stages.{i}" for i in range(4))]),
    "test_convnext": (64, {}, [f"stages.{i}" for i in range(4)]),
    "test_efficientnet": (64, {}, [f"blocks.{i}" for i in range(5)]),
    "mobilevit_xxs": (64, {}, [f"stages.{i}" for i in range(5)]),
    "regnetx_002": (64, {}, ["stem", "s1", "s2", "s3", "s4"]),
    "densenet121": (64, {}, ["features.norm0", *(f"features.denseblock{i}" for i in range(1, 5))]),
}
"""Networks of many kinds, made small: image size, options, and the stages that one would name by hand."""


def stages(*strides: float, size: int = 64) -> list[Stage]:
    return [Stage(f"s{i}", 8, round(size / stride), round(size / stride), stride) for i, stride in enumerate(strides)]


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ([1, 2, 4], [1, 2, 4], [(0, 0), (1, 1), (2, 2)]),
        ([1, 2, 4], [2, 4, 8], [(1, 0), (2, 1)]),
        ([2, 4, 8, 16, 32], [4, 8], [(1, 0), (2, 1)]),
        ([2, 4, 8, 16, 32], [2, 4, 8, 16, 32], [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ([1, 2, 4], [1.1, 2.1, 4.2], [(0, 0), (1, 1), (2, 2)]),
        ([16, 16, 16, 16], [2, 4, 8, 16, 32], [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ([4, 8, 16, 32], [16, 16, 16, 16], [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ([16, 16, 16, 16], [16, 16, 16, 16], [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ([4], [4], [(0, 0)]),
        ([8], [1, 2], [(0, 1)]),
        ([], [1, 2], []),
    ],
)
def test_pairs_by_stride_from_the_deep_end(teacher, student, expected) -> None:
    pairs = match_stages(stages(*teacher), stages(*student))
    assert [(int(p.teacher.path[1:]), int(p.student.path[1:])) for p in pairs] == expected
    assert len(pairs) <= MAX_PAIRS


def test_models_of_unequal_families_are_paired() -> None:
    images = torch.zeros(1, 3, 32, 32)
    pairs = pairs_of(cifar.create("vgg13", 10), cifar.create("mobilenet_v2_half", 10), images)
    assert len(pairs) >= 3
    assert all(pair.size == (pair.student.height, pair.student.width) and not pair.resized for pair in pairs)


def test_named_pairs_overrule() -> None:
    images = torch.zeros(1, 3, 32, 32)
    models = cifar.create("resnet20", 10), cifar.create("resnet8", 10)
    pairs = pairs_of(*models, images, "layer1.2:layer2, layer3:layer3")
    assert [(p.teacher.path, p.student.path) for p in pairs] == [("layer1.2", "layer2"), ("layer3", "layer3")]
    assert pairs[0].resized and pairs[0].size == (16, 16)
    for text in ("layer1", "layer1:", "a:b:c", ""):
        with pytest.raises(InputError, match="TEACHER_MODULE:STUDENT_MODULE"):
            pairs_of(*models, images, text)
    with pytest.raises(InputError, match="no module 'layer9'"):
        pairs_of(*models, images, "layer9:layer1")


def test_networks_without_stages_are_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InputError, match="no stage of the teacher can be paired"):
        pairs_of(flat, cifar.create("resnet8", 10), images)


@pytest.fixture(params=NETWORKS)
def network(request) -> tuple[nn.Module, int, list[str]]:
    size, options, paths = NETWORKS[request.param]
    torch.manual_seed(0)
    return timm.create_model(request.param, pretrained=False, num_classes=5, **options), size, paths


def test_networks_of_many_kinds_have_the_stages_that_one_would_name(network) -> None:
    model, size, paths = network
    found = [stage.path for stage in stages_of(model, torch.zeros(1, 3, size, size))]
    assert found == paths[: len(found)] and len(found) >= 3


@pytest.mark.parametrize("teaches", [True, False])
def test_networks_of_many_kinds_teach_and_learn(network, teaches: bool) -> None:
    model, size, _ = network
    partner = timm.create_model("test_resnet", pretrained=False, num_classes=5)
    teacher, student = (model, partner) if teaches else (partner, model)
    images, labels = torch.rand(2, 3, size, size), torch.tensor([0, 1])
    with torch.no_grad():
        bare = teacher.eval()(images)
    distiller = Distiller(teacher, student, {"ce": 1.0, "amd": 1.0}, example=images)
    assert distiller.teacher is not None and torch.equal(distiller.teacher(images).logits, bare)
    assert len(distiller.pairs) >= 2
    distiller(images, labels).terms["amd"].backward()
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    first = next(m.weight for m in student.modules() if isinstance(getattr(m, "weight", None), nn.Parameter))
    assert first.grad is not None and first.grad.ne(0).any()
