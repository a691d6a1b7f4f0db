"""Which stage teaches which."""

from __future__ import annotations

import pytest
import torch

from angularkd import InputError
from angularkd.models import cifar
from angularkd.pairing import MAX_PAIRS, match_stages, pair_models
from angularkd.stages import Stage


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
    pairs = pair_models(cifar.create("vgg13", 10), cifar.create("mobilenet_v2_half", 10), images, images)
    assert len(pairs) >= 3
    assert all(pair.size == (pair.student.height, pair.student.width) and not pair.resized for pair in pairs)


def test_named_pairs_overrule() -> None:
    images = torch.zeros(1, 3, 32, 32)
    models = cifar.create("resnet20", 10), cifar.create("resnet8", 10)
    pairs = pair_models(*models, images, images, "layer1.2:layer2, layer3:layer3")
    assert [(p.teacher.path, p.student.path) for p in pairs] == [("layer1.2", "layer2"), ("layer3", "layer3")]
    assert pairs[0].resized and pairs[0].size == (16, 16)
    for text in ("layer1", "layer1:", "a:b:c", ""):
        with pytest.raises(InputError, match="TEACHER_MODULE:STUDENT_MODULE"):
            pair_models(*models, images, images, text)
    with pytest.raises(InputError, match="no module 'layer9'"):
        pair_models(*models, images, images, "layer9:layer1")


def test_networks_without_stages_are_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InputError, match="no stage of the teacher can be paired"):
        pair_models(flat, cifar.create("resnet8", 10), images, images)
