"""Overlap and angles of attention maps against slow definitions in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from angularkd.losses import AMDLoss
from angularkd.metrics import angular_histograms

COUNT = 12
LABELS, LOGITS = torch.zeros(COUNT, dtype=torch.long), torch.zeros(COUNT, 2)


def features(seed: int, channels: int, side: int) -> Tensor:
    return torch.randn(COUNT, channels, side, side, generator=torch.Generator().manual_seed(seed)).relu() + 0.1


def attention(stage: Tensor) -> np.ndarray:
    maps = (stage.double().numpy() ** 2).sum(1)
    return maps / (np.sqrt((maps**2).sum((1, 2), keepdims=True)) + 1e-6)


@pytest.mark.parametrize("size", [COUNT, 5])
def test_overlap_is_that_of_the_top_fifth_of_the_positions(measure, size) -> None:
    x, y = features(0, 3, 5), features(1, 4, 5)
    tops = [[set(np.argsort(-one.ravel(), kind="stable")[:5].tolist()) for one in attention(stage)] for stage in (x, y)]
    expected = np.mean([len(one & other) / len(one | other) for one, other in zip(*tops, strict=True)])
    found = measure(LABELS, LOGITS, features=([x], [y]), metrics=["attention_overlap"], size=size)["attention_overlap"]
    assert found == pytest.approx(expected) and 0 < found < 1


def test_overlap_of_maps_with_themselves_is_one_and_of_disjoint_ones_none(measure) -> None:
    x, left, right = features(0, 3, 4), torch.zeros(COUNT, 1, 4, 4), torch.zeros(COUNT, 1, 4, 4)
    left[..., :1], right[..., 3:] = 1, 1

    def overlap(student: Tensor, teacher: Tensor) -> float:
        features = [student], [teacher]
        return measure(LABELS, LOGITS, features=features, metrics=["attention_overlap"])["attention_overlap"]

    assert overlap(x, -3 * x) == 1 and overlap(left, right) == 0


def test_histograms_are_those_of_the_angles_that_amd_makes(measure) -> None:
    x, y = features(0, 3, 6), features(1, 4, 3)
    student, teacher = angles(torch.nn.functional.avg_pool2d(x.square().sum(1), 2)), angles(y.square().sum(1))
    found = measure(LABELS, LOGITS, features=([x], [y]), metrics=["angular_distributions", "angular_distance"], size=5)
    edges, (pair,) = found["angular_distributions"].values()
    assert edges[0] == 0 and edges[-1] == 180 and len(edges) == 361
    for name in ("theta", "positive", "negative"):
        for role, expected in (("student", student), ("teacher", teacher)):
            counts, _ = np.histogram(expected[name], edges)
            apart = np.abs(np.cumsum(counts / counts.sum()) - np.cumsum(pair[name][role])).max()
            assert apart <= 2 / counts.sum(), "an angle at a border may fall into either bin"
        distance = wasserstein_distance(student[name], teacher[name])
        assert pair[name]["distance"] == pytest.approx(distance, abs=0.05), "bins of a twentieth of a degree"
        assert distance > 1
    assert found["angular_distance"] == pytest.approx(pair["theta"]["distance"])


def angles(maps: Tensor) -> dict[str, np.ndarray]:
    """In degrees; those of positive and negative part from the maps of the loss, psi / s = cos(angle) and n / s = cos(angle)."""
    _, positive, negative = AMDLoss().maps(maps.double()) / 64
    theta = (maps.double() / maps.double().square().sum(dim=(1, 2), keepdim=True).sqrt()).arccos()
    values = {"theta": theta, "positive": positive.clamp(-1, 1).arccos(), "negative": negative.clamp(0, 1).arccos()}
    return {name: np.rad2deg(value.numpy()).ravel() for name, value in values.items()}


def test_histograms_of_maps_are_those_of_their_features() -> None:
    x, y = features(0, 3, 4), features(1, 4, 4)
    maps = [stage.square().sum(1) for stage in (x, y)]
    assert angular_histograms([x], [y]) == angular_histograms(maps[:1], maps[1:])


def test_a_model_has_no_distance_to_itself(measure) -> None:
    x = features(0, 3, 4)
    found = measure(LABELS, LOGITS, features=([x], [2 * x]), metrics=["angular_distance"])["angular_distance"]
    assert found == pytest.approx(0, abs=0.01)


def test_a_constant_map_has_one_angle() -> None:
    flat = torch.ones(COUNT, 2, 4, 4)
    (pair,) = angular_histograms([flat], [flat])["pairs"]
    angle = math.degrees(math.acos(1 / 4))
    assert pair["theta"]["student"][int(2 * angle)] == 1
