"""Losses on features that learn nothing: golden values, slow oracles written from the papers, laws, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from angularkd.errors import InputError
from angularkd.features import PowerMap, match_sizes
from angularkd.losses.amd import AMDLoss
from angularkd.losses.boundary import ActivationBoundaries
from angularkd.losses.factor import FactorTransfer
from angularkd.losses.feature import (
    AttentionTransfer,
    HierarchicalContext,
    NeuronSelectivityTransfer,
    SolutionFlow,
    context_distance,
)
from angularkd.losses.projected import FitNet
from angularkd.losses.relation import SimilarityPreserving
from losses.feature_laws import (
    PRECISIONS,
    assert_gradients,
    assert_permutation_invariant,
    assert_precision,
    assert_refused,
    assert_teacher_detached,
    random_features,
    without_shape_checks,
)
from losses.slow_layers import Array, array, context, match, pool, positions, power_map, unit

Shapes = list[tuple[int, int, int]]

STUDENT: Shapes = [(3, 6, 5), (4, 3, 4), (2, 3, 2)]
SAME: Shapes = STUDENT
WIDER: Shapes = [(5, 6, 5), (6, 3, 4), (3, 3, 2)]
WIDER_OTHER_SIZES: Shapes = [(5, 9, 4), (6, 7, 5), (3, 1, 3)]
OTHER_SIZES: Shapes = [(3, 9, 4), (4, 7, 5), (2, 1, 3)]

Build = Callable[..., nn.Module]
BARE_HINTS: Build = partial(FitNet, bare=True)
POWER_FACTORS: Build = partial(FactorTransfer, rate=None)

GOLDEN: dict[str, tuple[Build, str]] = {
    "at": (AttentionTransfer, "teacher"),
    "nst": (NeuronSelectivityTransfer, "teacher"),
    "fsp": (SolutionFlow, "teacher_same_channels"),
    "ab": (ActivationBoundaries, "teacher_same_channels"),
    "fitnet": (BARE_HINTS, "teacher_same_channels"),
    "factor": (POWER_FACTORS, "teacher"),
    "hcl": (HierarchicalContext, "teacher_same_channels"),
}

Slow = Callable[..., float]


def slow_attention(student: Array, teacher: Array, power: float = 2.0, squared: bool = True) -> float:
    s, t = (unit(m.reshape(len(m), -1)) for m in match(power_map(student, power), power_map(teacher, power)))
    if squared:
        return sum((a - b) ** 2 for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True)) / s.size
    return sum(math.dist(x, y) for x, y in zip(s, t, strict=True)) / len(s)


def slow_factor(student: Array, teacher: Array, power: float = 2.0, exponent: float = 1.0) -> float:
    s, t = (unit(m.reshape(len(m), -1)) for m in match(power_map(student, power), power_map(teacher, power)))
    return sum(abs(a - b) ** exponent for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True)) / s.size


def slow_neuron_selectivity(student: Array, teacher: Array) -> float:
    student, teacher = match(student, teacher)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        xs, ys = (unit(channels.reshape(len(channels), -1)) for channels in (s, t))
        for sign, first, second in ((1, ys, ys), (1, xs, xs), (-2, xs, ys)):
            kernels = [sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in first for y in second]
            total += sign * sum(kernels) / len(kernels)
    return total / len(student)


def slow_hint(student: Array, teacher: Array, per_element: bool = True) -> float:
    student, teacher = match(student, teacher)
    squares = [(a - b) ** 2 for a, b in zip(student.ravel(), teacher.ravel(), strict=True)]
    return float(sum(squares)) / (len(squares) if per_element else 2 * len(student))


def slow_boundary(student: Array, teacher: Array, margin: float = 1.0) -> float:
    """Without weights: ||rho(T) relu(margin - S) + (1 - rho(T)) relu(margin + S)||^2, rho being 1 where T > 0."""
    student, teacher = match(student, teacher)
    total = 0.0
    for s, t in zip(student.ravel(), teacher.ravel(), strict=True):
        active = 1.0 if t > 0 else 0.0
        total += (active * max(margin - s, 0.0) + (1 - active) * max(margin + s, 0.0)) ** 2
    return total / len(student)


def summed(slow: Slow) -> Slow:
    return lambda students, teachers, **options: sum(map(lambda s, t: slow(s, t, **options), students, teachers))


def slow_boundaries(students: list[Array], teachers: list[Array], **options: Any) -> float:
    scale = options.pop("scale", 3 / 1000)
    weights = options.pop("stage_weights", [2.0**-k for k in reversed(range(len(students)))])
    stages = zip(weights, students, teachers, strict=True)
    return scale * sum(w * slow_boundary(s, t, **options) for w, s, t in stages)


def slow_flow(
    students: list[Array], teachers: list[Array], per_element: bool = True, max_pooling: bool = False
) -> float:
    def matrix(here: Array, following: Array) -> Array:
        if not max_pooling:
            here, following = match(here, following)
        else:
            height, width = (min(here.shape[d], following.shape[d]) for d in (2, 3))
            here, following = (slow_max_pool(x, height, width) for x in (here, following))
        places = positions(here)
        entries = [
            [
                [sum(x[i, h, w] * y[j, h, w] for h, w in places) / len(places) for j in range(len(y))]
                for i in range(len(x))
            ]
            for x, y in zip(here, following, strict=True)
        ]
        return torch.tensor(entries, dtype=torch.float64).numpy()

    total = 0.0
    for i in range(len(students) - 1):
        squares = (matrix(students[i], students[i + 1]) - matrix(teachers[i], teachers[i + 1])) ** 2
        total += float(squares.sum()) / (squares.size if per_element else len(squares))
    return total


def slow_max_pool(features: Array, height: int, width: int) -> Array:
    rows, columns = features.shape[2:]
    out = pool(features, height, width)
    for h, w in positions(out):
        window = features[
            ...,
            h * rows // height : -(-(h + 1) * rows // height),
            w * columns // width : -(-(w + 1) * columns // width),
        ]
        out[..., h, w] = window.max(axis=(2, 3))
    return out


ORACLES: list[tuple[Build, Slow, dict[str, Any]]] = [
    (AttentionTransfer, summed(slow_attention), {}),
    (AttentionTransfer, summed(slow_attention), {"power": 1.0}),
    (AttentionTransfer, summed(slow_attention), {"power": 3.0, "squared": False}),
    (NeuronSelectivityTransfer, summed(slow_neuron_selectivity), {}),
    (SolutionFlow, slow_flow, {}),
    (SolutionFlow, slow_flow, {"per_element": False, "max_pooling": True}),
    (HierarchicalContext, summed(context), {}),
    (HierarchicalContext, summed(context), {"levels": (3, 1)}),
    (ActivationBoundaries, slow_boundaries, {}),
    (ActivationBoundaries, slow_boundaries, {"margin": 0.5, "scale": 1.0, "stage_weights": [1.0, 1.0, 1.0]}),
    (BARE_HINTS, summed(slow_hint), {}),
    (BARE_HINTS, summed(slow_hint), {"per_element": False}),
    (POWER_FACTORS, summed(slow_factor), {}),
    (POWER_FACTORS, summed(slow_factor), {"power": 1.0, "exponent": 2.0}),
]
ANY_CHANNELS = (AttentionTransfer, NeuronSelectivityTransfer, POWER_FACTORS)
MAPS = (AttentionTransfer, POWER_FACTORS)
ALL = [loss for loss, _ in GOLDEN.values()]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(golden: Any, name: str) -> None:
    loss, teacher = GOLDEN[name]
    student = golden.stages("student")
    golden.check(name, loss()(student, golden.stages(teacher)), student)


@pytest.mark.parametrize("other_sizes", [False, True])
@pytest.mark.parametrize(("loss", "slow", "options"), ORACLES)
def test_equals_the_slow_oracle(loss: Build, slow: Slow, options: dict[str, Any], other_sizes: bool) -> None:
    equal, wider = (OTHER_SIZES, WIDER_OTHER_SIZES) if other_sizes else (SAME, WIDER)
    student = random_features(STUDENT, 0)
    teacher = random_features(wider if loss in ANY_CHANNELS else equal, 1)
    expected = slow([array(s) for s in student], [array(t) for t in teacher], **options)
    value = loss(**options)(student, teacher)
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("loss", "slow", "options"), ORACLES)
def test_gradients(loss: Build, slow: Slow, options: dict[str, Any]) -> None:
    shapes = [(2, 3, 3), (2, 2, 2)]
    wider = [(3, 2, 4), (3, 3, 2)] if loss in ANY_CHANNELS else [(2, 2, 4), (2, 3, 2)]
    if "stage_weights" in options:
        options = options | {"stage_weights": [1.0, 1.0]}
    assert_gradients(loss(**options), random_features(shapes, 2, batch=2), random_features(wider, 3, batch=2))


@pytest.mark.parametrize(("loss", "slow", "options"), ORACLES)
def test_a_student_like_its_teacher_is_at_the_minimum(loss: Build, slow: Slow, options: dict[str, Any]) -> None:
    teacher = random_features(STUDENT, 4)
    if loss is ActivationBoundaries:  # its minimum asks for the margin as well
        teacher = [stage.detach().sign() * (1 + stage.detach().abs()) for stage in teacher]
    student = [stage.detach().clone().requires_grad_() for stage in teacher]
    value = loss(**options)(student, teacher)
    assert abs(value.item()) < 1e-14
    for gradient in torch.autograd.grad(value, student):
        assert gradient.abs().max() < 1e-12


def test_boundaries_are_not_reached_within_the_margin() -> None:
    features = [torch.full((2, 3, 2, 2), 0.25)]
    value = ActivationBoundaries(margin=1.0, scale=1.0)(features, features)
    assert value.item() == pytest.approx(12 * 0.75**2)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("loss", ALL)
def test_every_precision(loss: Build, dtype: torch.dtype) -> None:
    teacher = WIDER if loss in ANY_CHANNELS else SAME
    assert_precision(loss(), (STUDENT, teacher), dtype)


@pytest.mark.parametrize("loss", ALL)
def test_autocast_changes_nothing(loss: Build) -> None:
    student = random_features(STUDENT, 5, dtype=torch.float32)
    teacher = random_features(SAME, 6, dtype=torch.float32)
    expected = loss()(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss()(student, teacher), expected)


@pytest.mark.parametrize("loss", ALL)
def test_a_teacher_of_another_precision_is_taken_as_the_students(loss: Build) -> None:
    student = random_features(STUDENT, 5, dtype=torch.float32)
    teacher = random_features(SAME, 6, dtype=torch.float16)
    expected = loss()(student, [stage.detach().float() for stage in teacher])
    assert torch.equal(loss()(student, teacher), expected)
    assert torch.equal(loss()(student, [stage.detach().double() for stage in teacher]), expected)


@pytest.mark.parametrize("loss", ALL)
def test_batch_permutation(loss: Build) -> None:
    assert_permutation_invariant(loss(), random_features(STUDENT, 7), random_features(SAME, 8))


@pytest.mark.parametrize("loss", ALL)
def test_the_teacher_carries_no_gradient(loss: Build) -> None:
    assert_teacher_detached(loss(), random_features(STUDENT, 9), random_features(SAME, 10))


@pytest.mark.parametrize("loss", ALL)
def test_a_batch_is_the_mean_of_its_samples(loss: Build) -> None:
    """So a batch of one works, and nothing here needs the whole batch."""
    student, teacher = random_features(STUDENT, 11), random_features(SAME, 12)
    singles = [loss()([s[i : i + 1] for s in student], [t[i : i + 1] for t in teacher]) for i in range(3)]
    torch.testing.assert_close(torch.stack(singles).mean(), loss()(student, teacher), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ALL)
def test_dead_features_have_finite_gradients(loss: Build) -> None:
    student = [torch.zeros(2, *shape, requires_grad=True) for shape in STUDENT]
    value = loss()(student, random_features(SAME, 13, batch=2, dtype=torch.float32))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, student))
    assert value.isfinite()


@pytest.mark.parametrize("loss", MAPS)
def test_maps_that_were_reduced_already_serve_as_well_as_features(loss: Build) -> None:
    student, teacher = random_features(STUDENT, 14), random_features(WIDER_OTHER_SIZES, 15)
    module = loss(power=3.0)
    assert module.reduction == PowerMap(3.0)
    maps = [[module.reduction(stage) for stage in side] for side in (student, teacher)]
    assert torch.equal(module(*maps), module(student, teacher))
    assert torch.equal(module(student, maps[1]), module(student, teacher))


@pytest.mark.parametrize("loss", [loss for loss in ALL if loss not in MAPS])
def test_the_other_losses_want_features_whole(loss: Build) -> None:
    assert getattr(loss(), "reduction", None) is None
    maps = [torch.ones(2, 3, 3), torch.ones(2, 3, 3)]
    with pytest.raises(
        InputError, match=r"stage 0: expected the student's features as \[batch, channel, height, width\]"
    ):
        loss()(maps, maps)


def test_the_learned_factors_want_features_whole() -> None:
    assert FactorTransfer(STUDENT, WIDER).reduction is None


def test_match_sizes_pools_features_as_it_pools_maps() -> None:
    first, second = random_features([(3, 5, 4), (2, 3, 7)], 16)
    pooled_first, pooled_second = match_sizes(first, second)
    assert (pooled_first.shape, pooled_second.shape) == ((3, 3, 3, 4), (3, 2, 3, 4))
    for channel in range(3):
        assert torch.equal(match_sizes(first[:, channel], second[:, 0])[0], pooled_first[:, channel])
    unchanged = match_sizes(first, first)
    assert unchanged[0] is first
    assert unchanged[1] is first


def test_context_levels_halve_their_weights_and_keep_short_sides() -> None:
    student, teacher = random_features([(2, 2, 8), (2, 2, 8)], 17)
    expected = context(array(student), array(teacher))
    assert context_distance(student, teacher, (4, 2, 1)).item() == pytest.approx(expected, rel=1e-12)
    point = [stage[..., :1, :1] for stage in (student, teacher)]
    assert torch.equal(context_distance(*point, (4, 2, 1)), nn.functional.mse_loss(*point))


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ([], [], "0 of the student and 0 of the teacher: pass two equally long, non-empty sequences"),
        ([(2, 3, 4, 4)], [(2, 3, 4, 4)] * 2, "1 of the student and 2 of the teacher"),
        (
            [(2, 3, 4, 4)] * 2,
            [(2, 3, 4, 4), (3, 3, 4, 4)],
            "stage 1: the student's batch holds 2 samples, the teacher's 3",
        ),
        ([(2, 3)], [(2, 3)], "stage 0: expected the student's features as"),
        ([(2, 3, 4, 4)], [(2, 3)], "stage 0: expected the teacher's features as"),
    ],
)
def test_sequences_that_cannot_be_paired(
    loss: Build, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]], message: str
) -> None:
    assert_refused(lambda: loss()([torch.ones(s) for s in student], [torch.ones(t) for t in teacher]), message)


FEATURES = torch.ones(2, 3, 4, 4)


@without_shape_checks
@pytest.mark.parametrize("loss", [AMDLoss, SimilarityPreserving, *ALL])
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            FEATURES,
            [FEATURES],
            "takes a sequence of the student's features, one tensor a stage, got torch.float32 [2, 3, 4, 4]",
        ),
        ([FEATURES], FEATURES, "takes a sequence of the teacher's features"),
        (None, [FEATURES], "takes a sequence of the student's features, one tensor a stage, got NoneType"),
        ([FEATURES, None], [FEATURES] * 2, "stage 1: expected the student's features as a tensor, got NoneType"),
        ([FEATURES], ["layer3"], "stage 0: expected the teacher's features as a tensor, got str"),
        ([FEATURES.int()], [FEATURES], "stage 0: the student's features are torch.int32 [2, 3, 4, 4]: give floats"),
        ([FEATURES[:0]], [FEATURES[:0]], "stage 0: the student's features hold no sample"),
        ([FEATURES[0, 0, 0]], [FEATURES], "got [4]: take the stage before it is pooled, flattened or reduced"),
        ([FEATURES[..., 0, 0]], [FEATURES], "got [2, 3]: take the stage before it is pooled or flattened"),
        ([FEATURES[:, :, None]], [FEATURES], "got [2, 3, 1, 4, 4]: fold the frames of a video"),
        (
            [torch.ones(4, 50, 384)],
            [torch.ones(4, 50, 384)],
            "got [4, 50, 384]: lay tokens [batch, tokens, channel] out",
        ),
        ([torch.ones(2, 197, 192)], [torch.ones(2, 197, 192)], "got [2, 197, 192]: lay tokens"),
        ([torch.ones(2, 49, 768)], [torch.ones(2, 49, 768)], "got [2, 49, 768]: lay tokens"),
    ],
)
def test_what_is_no_sequence_of_features_is_named(loss: Build, student: Any, teacher: Any, message: str) -> None:
    assert_refused(lambda: loss()(student, teacher), message)


@pytest.mark.parametrize("size", [(1, 2), (2, 90), (30, 90), (97, 97), (101, 101), (50, 67), (112, 200), (64, 96)])
def test_maps_of_any_usual_size_are_maps(size: tuple[int, int]) -> None:
    student, teacher = (torch.rand(2, *size) for _ in range(2))
    assert AttentionTransfer()([student], [teacher]).isfinite()


def test_tokens_are_laid_out_as_the_error_says() -> None:
    tokens = torch.randn(2, 12, 5)
    laid_out = tokens.mT.unflatten(2, (3, 4))
    assert torch.equal(laid_out[:, :, 1, 2], tokens[:, 6])
    assert AMDLoss()([laid_out], [laid_out + 1]).isfinite()


@pytest.mark.parametrize("loss", [AttentionTransfer, NeuronSelectivityTransfer, POWER_FACTORS])
def test_a_single_position_has_no_direction(loss: Build) -> None:
    shapes = [(3, 4, 4), (3, 1, 1)]
    assert_refused(lambda: loss()(random_features(shapes, 0), random_features(shapes, 1)), "stage 1: a 1x1 map")


@pytest.mark.parametrize("loss", [loss for loss in ALL if loss not in ANY_CHANNELS])
def test_unequal_channels(loss: Build) -> None:
    student, teacher = random_features([(2, 4, 4), (3, 4, 4)], 0), random_features([(2, 4, 4), (5, 4, 4)], 1)
    assert_refused(lambda: loss()(student, teacher), "stage 1: the student has 3 channels, the teacher 5")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttentionTransfer(power=0.5), "power must be at least 1"),
        (lambda: FactorTransfer(rate=None, power=0.5), "power must be at least 1"),
        (lambda: FactorTransfer(exponent=0.5), "exponent must be at least 1"),
        (lambda: HierarchicalContext(levels=(4, 0)), "levels are the sides of pooling grids"),
        (lambda: ActivationBoundaries(margin=0.0), "margin must be positive"),
        (lambda: FitNet(), "FitNet's regressors need to know the channels"),
        (lambda: FitNet(bare=True, always_regress=True), "FitNet's regressors need to know the channels"),
        (lambda: FactorTransfer(), "give student_shapes and teacher_shapes"),
        (
            lambda: SolutionFlow()([torch.ones(1, 2, 3, 3)], [torch.ones(1, 2, 3, 3)]),
            "consecutive stages, got a single one",
        ),
        (
            lambda: ActivationBoundaries(stage_weights=[1.0])(
                [torch.ones(1, 2, 3, 3)] * 2, [torch.ones(1, 2, 3, 3)] * 2
            ),
            "AB got 1 stage_weights for 2 stages",
        ),
    ],
)
def test_options_that_do_not_fit(build: Callable[[], Any], message: str) -> None:
    assert_refused(build, message)
