"""Metrics of features against slow definitions in NumPy, and their laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

COUNT = 30
LABELS, LOGITS = torch.zeros(COUNT, dtype=torch.long), torch.zeros(COUNT, 2)


def features(seed: int, channels: int, side: int) -> Tensor:
    return torch.randn(COUNT, channels, side, side, generator=torch.Generator().manual_seed(seed)).relu() + 0.1


def related() -> tuple[Tensor, Tensor]:
    """Two stages with something in common: of other widths, of one size."""
    first = features(0, 4, 4)
    mixing = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    return first, torch.einsum("dc,nchw->ndhw", mixing, first) + features(1, 6, 4)


@pytest.fixture
def similarity(measure):
    def similar(name: str, student: list[Tensor], teacher: list[Tensor], size: int = COUNT) -> float:
        return measure(LABELS, LOGITS, features=(student, teacher), metrics=[name], size=size)[name]

    return similar


def slow_hsic(x: Tensor, y: Tensor) -> float:
    """The unbiased HSIC as a mean over all ordered choices of four different images (Song et al., 2012), linear kernels."""
    x, y = (t.double().flatten(1).numpy() for t in (x, y))
    k, l = x @ x.T, y @ y.T
    chosen = itertools.permutations(range(len(x)), 4)
    return np.mean([k[a, b] * (l[a, b] + l[c, d] - 2 * l[a, c]) for a, b, c, d in chosen])


def slow_cka(x: Tensor, y: Tensor, sizes: list[int]) -> float:
    """The batches' HSIC, weighed by their sizes; a batch of fewer than four images left out."""
    parts = [part for part in zip(x.split(sizes), y.split(sizes), strict=True) if len(part[0]) >= 4]

    def hsic(one: int, other: int) -> float:
        return sum(len(part[0]) * slow_hsic(part[one], part[other]) for part in parts)

    return hsic(0, 1) / math.sqrt(hsic(0, 0) * hsic(1, 1))


@pytest.mark.parametrize("sizes", [[10], [6, 6, 5], [6, 6, 1]])
def test_cka_equals_its_definition_on_batches(measure, sizes) -> None:
    x, y = (t[: sum(sizes)] for t in related())
    labels, logits = LABELS[: len(x)], LOGITS[: len(x)]
    found = measure(labels, logits, features=([x], [y]), metrics=["cka"], size=sizes[0])["cka"]
    assert found == pytest.approx(slow_cka(x, y, sizes), rel=1e-4)
    assert 0.05 < found < 0.95


def test_cka_of_features_with_themselves_is_one(similarity) -> None:
    x = features(0, 4, 4)
    for size in (COUNT, 7):
        assert similarity("cka", [x], [x], size) == pytest.approx(1.0, abs=1e-5)


def test_cka_does_not_see_rotations_scales_and_shifts(similarity) -> None:
    x, y = related()
    rotation, _ = torch.linalg.qr(torch.randn(96, 96, generator=torch.Generator().manual_seed(5)))
    turned = 7 * (y.flatten(1) @ rotation).view_as(y) + 3
    assert similarity("cka", [x], [turned]) == pytest.approx(similarity("cka", [x], [y]), rel=1e-4)
    assert similarity("cka", [y], [turned]) == pytest.approx(1.0, abs=1e-5)


def test_cka_of_unrelated_features_is_near_zero_even_in_small_batches(similarity) -> None:
    assert abs(similarity("cka", [features(0, 8, 4)], [features(1, 8, 4)], 10)) < 0.2


def test_cka_keeps_its_digits_where_features_lie_far_from_zero(similarity) -> None:
    x, y = related()
    assert similarity("cka", [x + 100], [y + 100]) == pytest.approx(similarity("cka", [x], [y]), rel=1e-2)


def test_cka_is_nan_where_nothing_can_be_measured(similarity) -> None:
    x = features(0, 4, 4)
    assert math.isnan(similarity("cka", [x], [x], 3))
    assert math.isnan(similarity("cka", [torch.ones_like(x)], [x]))


def slow_attention_similarity(x: Tensor, y: Tensor) -> float:
    """Of two stages, of which the second has half the height and width of the first."""
    first, second = ((t.double().numpy() ** 2).sum(1) for t in (x, y))
    first = first.reshape(COUNT, second.shape[1], 2, second.shape[2], 2).mean((2, 4))
    cosines = [(p * q).sum() / math.sqrt((p**2).sum() * (q**2).sum()) for p, q in zip(first, second, strict=True)]
    return float(np.mean(cosines))


def test_attention_similarity_equals_its_definition_whatever_the_batches(similarity) -> None:
    x, y = features(0, 4, 8), features(1, 6, 4)
    for size in (COUNT, 7):
        assert similarity("attention_similarity", [x], [y], size) == pytest.approx(slow_attention_similarity(x, y))
        assert similarity("attention_similarity", [y], [x], size) == pytest.approx(slow_attention_similarity(x, y))


def test_attention_similarity_of_features_with_themselves_is_one_and_of_disjoint_ones_zero(similarity) -> None:
    x = features(0, 4, 4)
    assert similarity("attention_similarity", [x], [-2 * x]) == pytest.approx(1.0)
    left, right = torch.zeros_like(x), torch.zeros_like(x)
    left[..., :2], right[..., 2:] = 1, 1
    assert similarity("attention_similarity", [left], [right]) == 0.0


@pytest.mark.parametrize("name", ["cka", "attention_similarity"])
def test_several_pairs_give_their_mean(similarity, name) -> None:
    (a, b), (c, d) = related(), (features(3, 3, 8), features(4, 5, 4))
    both = similarity(name, [a, c], [b, d])
    assert both == pytest.approx((similarity(name, [a], [b]) + similarity(name, [c], [d])) / 2)


@pytest.mark.parametrize("name", ["cka", "attention_similarity"])
def test_half_precision_features_are_widened(similarity, name) -> None:
    x, y = (200 * t for t in related())  # whose squares overflow in float16
    assert similarity(name, [x.half()], [y.half()]) == pytest.approx(similarity(name, [x], [y]), rel=1e-2)
