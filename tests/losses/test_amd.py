"""AMD against golden values, a slow oracle and the laws it has to keep."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from angularkd import AMDLoss, InputError
from angularkd.config import parse_losses
from angularkd.features import PowerMap
from angularkd.losses.amd import MARGINS as NAMED_MARGINS
from angularkd.losses.amd import TERMS, cosine_with_margin, fits_grid, patches, region_distance
from losses.feature_laws import without_shape_checks

MARGINS = [(1.35, 0.0, 0.0), (1.0, 0.0, 0.0), (1.2, 0.3, 0.0), (1.0, 0.0, 0.2), (1.1, 0.2, 0.1)]
GOLDEN = [(64, m) for m in ("1.0", "1.1", "1.2", "1.35", "1.5", "2.0")] + [(32, "1.35"), (8, "1.35")]


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_(grad)


def slow_amd(
    student: Tensor,
    teacher: Tensor,
    margin: float,
    additive: float,
    cosine: float,
    scale: float,
    grid: int | None,
    w: float,
    centered: bool = False,
    normalization: str = "norm",
    balanced: bool = False,
    terms: tuple[str, ...] = TERMS,
) -> float:
    """One stage of equal sizes by loops over samples and positions, in Python's floats, from the formulas of the paper."""

    def maps(stage: Tensor) -> list[list[list[list[float]]]]:
        result = []
        for sample in stage.tolist():
            height, width = len(sample[0]), len(sample[0][0])
            power = [[sum(channel[y][x] ** 2 for channel in sample) for x in range(width)] for y in range(height)]
            values = [value for row in power for value in row]
            norm = (max(values) if normalization == "max" else math.sqrt(sum(value**2 for value in values))) + 1e-6
            positive = [[0.0] * width for _ in range(height)]
            negative = [[0.0] * width for _ in range(height)]
            angular = [[0.0] * width for _ in range(height)]
            for y in range(height):
                for x in range(width):
                    q = power[y][x] / norm
                    positive[y][x] = scale * (math.cos(margin * math.acos(q) + additive) - cosine)
                    negative[y][x] = scale * (1 - q)
                    angular[y][x] = positive[y][x] - math.log(math.exp(positive[y][x]) + math.exp(negative[y][x]))
            named = {"angular": angular, "positive": positive, "negative": negative}
            result.append([named[term] for term in terms])
        return result

    def unit(values: list[float]) -> list[float]:
        mean = sum(values) / len(values) if centered else 0.0
        norm = math.sqrt(sum((value - mean) ** 2 for value in values))
        return [(value - mean) / norm for value in values]

    def region(s: list, t: list, rows: range, columns: range) -> float:
        total = 0.0
        for sample_s, sample_t in zip(s, t, strict=True):
            for map_s, map_t in zip(sample_s, sample_t, strict=True):
                ours, theirs = (unit([of[y][x] for y in rows for x in columns]) for of in (map_s, map_t))
                total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
        return total / (3 * len(s) * len(rows) * len(columns))

    s, t = maps(student), maps(teacher)
    height, width = student.shape[2:]
    whole = region(s, t, range(height), range(width))
    factor = (height * width) ** (1 if centered else 2) if balanced else 1
    if grid is None:
        return factor * whole
    tops, lefts = ([i * side // grid for i in range(grid + 1)] for side in (height, width))
    cells = [(range(*tops[i : i + 2]), range(*lefts[j : j + 2])) for i in range(grid) for j in range(grid)]
    if min(len(rows) * len(columns) for rows, columns in cells) < 2:
        return factor * whole
    return factor * ((1 - w) * whole + w * sum(region(s, t, *cell) for cell in cells) / len(cells))


@pytest.mark.parametrize(("scale", "margin"), GOLDEN)
def test_golden_values_and_gradients(golden, scale, margin) -> None:
    student = golden.stages("student")
    loss = AMDLoss(margin=float(margin), scale=scale)(student, golden.stages("teacher"))
    golden.check(f"amd_global.s{scale}.m{margin}", loss, student)


def test_golden_values_and_gradients_with_local_patches(golden) -> None:
    student = golden.stages("student")
    loss = AMDLoss(grid=2, local_weight=0.2)(student, golden.stages("teacher"))
    golden.check("amd_global_local4.s64.m1.35", loss, student)


@pytest.mark.parametrize("grid", [None, 2, 3])
@pytest.mark.parametrize(("margin", "additive", "cosine"), MARGINS)
def test_equals_the_slow_oracle(margin, additive, cosine, grid) -> None:
    student, teacher = features(2, 3, 6, 12, seed=1), features(2, 5, 6, 12, seed=2)
    loss = AMDLoss(margin, additive, cosine, scale=8.0, grid=grid, local_weight=0.3)([student], [teacher])
    expected = slow_amd(student, teacher, margin, additive, cosine, 8.0, grid, 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


SUBSETS = [subset for count in (1, 2, 3) for subset in itertools.combinations(TERMS, count)]


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize("form", [{}, {"centered": True, "stage_weights": "balanced"}], ids=str)
@pytest.mark.parametrize("terms", SUBSETS, ids="+".join)
def test_every_choice_of_terms_equals_the_slow_oracle(terms, form, grid) -> None:
    student, teacher = features(2, 3, 5, 6, seed=1, grad=True), features(2, 5, 5, 6, seed=2)
    loss = AMDLoss(1.2, scale=8.0, grid=grid, local_weight=0.3, terms=terms, **form)
    parts = loss.by_map([student], [teacher])
    centered = bool(form)
    expected = [
        slow_amd(student, teacher, 1.2, 0.0, 0.0, 8.0, grid, 0.3, centered, balanced=centered, terms=(term,))
        if term in terms
        else 0.0
        for term in TERMS
    ]
    assert parts.tolist() == pytest.approx(expected, rel=1e-10)
    assert loss([student], [teacher]).item() == pytest.approx(sum(expected), rel=1e-10)
    assert torch.autograd.gradcheck(lambda s: loss([s], [teacher]), (student,), fast_mode=True)


def test_terms_are_named_in_any_order_and_as_text() -> None:
    student, teacher = features(2, 3, 4, 4, seed=1), features(2, 4, 4, 4, seed=2)
    chosen = AMDLoss(terms=("angular", "negative"))([student], [teacher])
    for terms in (["negative", "angular"], "negative, angular"):
        assert torch.equal(AMDLoss(terms=terms)([student], [teacher]), chosen)
    assert torch.equal(AMDLoss(terms=TERMS)([student], [teacher]), AMDLoss()([student], [teacher]))
    text = parse_losses(["amd=1,terms=[negative,angular],grid=2"])
    assert text == {"amd": {"weight": 1, "terms": ["negative", "angular"], "grid": 2}}
    assert parse_losses(["amd=1,terms=negative"]) == {"amd": {"weight": 1, "terms": "negative"}}


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize("size", [(6, 12), (7, 7), (3, 9), (2, 2)])
@pytest.mark.parametrize(
    "options",
    [
        {"centered": True},
        {"normalization": "max"},
        {"stage_weights": "balanced"},
        {"centered": True, "normalization": "max", "stage_weights": "balanced"},
    ],
    ids=str,
)
def test_the_forms_that_are_not_the_papers_equal_the_slow_oracle(options, size, grid) -> None:
    student, teacher = features(2, 3, *size, seed=1), features(2, 5, *size, seed=2)
    loss = AMDLoss(1.2, scale=8.0, grid=grid, local_weight=0.3, **options)([student], [teacher])
    balanced = options.pop("stage_weights", None) == "balanced"
    expected = slow_amd(student, teacher, 1.2, 0.0, 0.0, 8.0, grid, 0.3, balanced=balanced, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    options |= {"stage_weights": "balanced"} if balanced else {}


def authors_patches(maps: Tensor) -> list[Tensor]:
    """The four patches as the authors cut them: at h // 2 and w // 2."""
    h, w = maps.shape[-2] // 2, maps.shape[-1] // 2
    return [maps[..., :h, :w], maps[..., :h, w:], maps[..., h:, :w], maps[..., h:, w:]]


@pytest.mark.parametrize("size", [(7, 7), (5, 8), (9, 3)])
def test_a_grid_cuts_odd_maps_as_the_authors_do(size) -> None:
    maps = torch.arange(2 * size[0] * size[1], dtype=torch.float64).view(2, *size)
    ours, theirs = list(patches(maps, 2)), authors_patches(maps)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    student, teacher = features(2, 3, *size, seed=1), features(2, 4, *size, seed=2)
    loss = AMDLoss(grid=2, local_weight=1.0)
    local = []
    for cell in range(4):
        units = [
            torch.nn.functional.normalize(authors_patches(loss.maps(stage))[cell].flatten(2), dim=2)
            for stage in (student, teacher)
        ]
        local.append((units[0] - units[1]).square().mean())
    torch.testing.assert_close(loss([student], [teacher]), torch.stack(local).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("size", "grid", "fits"), [((2, 2), 2, False), ((2, 4), 2, True), ((3, 3), 2, False), ((7, 7), 9, False)]
)
def test_a_map_too_small_for_the_grid_is_compared_whole(size, grid, fits) -> None:
    assert fits_grid(size, grid) == fits
    student, teacher = features(2, 3, *size, seed=1), features(2, 4, *size, seed=2)
    whole, cut = (AMDLoss(grid=k)([student], [teacher]) for k in (None, grid))
    assert torch.equal(whole, cut) != fits


def test_balanced_stages_count_by_their_positions() -> None:
    sizes = ((8, 8), (4, 4), (2, 3))
    stages = [[features(2, c, *size, seed=i + c) for i, size in enumerate(sizes)] for c in (3, 4)]
    for centered, exponent in ((False, 2), (True, 1)):
        explicit = AMDLoss(centered=centered, stage_weights=[float(h * w) ** exponent for h, w in sizes])
        balanced = AMDLoss(centered=centered, stage_weights="balanced")
        torch.testing.assert_close(balanced(*stages), explicit(*stages), rtol=1e-12, atol=0)


def test_centred_maps_are_compared_up_to_an_offset_and_a_scale() -> None:
    """A correlation: of maps whose angular parts are shifted or scaled, and of features of any scale."""
    student, teacher = (features(3, 5, 6, seed=i).abs() for i in (1, 2))
    distance = region_distance(student, teacher, centered=True)
    torch.testing.assert_close(region_distance(7 * student + 3, 0.5 * teacher - 2, centered=True), distance)
    paired = zip(student.flatten(1), teacher.flatten(1), strict=True)
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in paired]
    torch.testing.assert_close(distance, 2 * (1 - torch.stack(correlations)).mean() / (3 * 30))
    assert abs(region_distance(student + 3, teacher) - region_distance(student, teacher)) > 1e-4
    features_s, features_t = features(2, 3, 6, 6, seed=1), features(2, 4, 6, 6, seed=2)
    loss = AMDLoss(centered=True, eps=0.0)
    torch.testing.assert_close(loss([features_s * 7], [features_t / 3]), loss([features_s], [features_t]))


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0, 40.0])
def test_a_map_without_variation_has_no_direction_and_a_bounded_gradient(level) -> None:
    """What rounding leaves of a constant less its mean is no map to be compared."""
    student = torch.full((2, 3, 7, 7), level, requires_grad=True)
    loss = AMDLoss(centered=True, grid=2)([student], [features(2, 3, 7, 7).float()])
    loss.backward()
    assert loss.isfinite() and student.grad.abs().max() < 10


def test_max_normalised_maps_reach_one_whatever_their_size() -> None:
    for side in (2, 16):
        stage = features(2, 3, side, side)
        negative = AMDLoss(normalization="max", scale=1.0).maps(stage)[2]
        torch.testing.assert_close(1 - negative.amin(dim=(1, 2)), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-5)


def test_stages_are_summed() -> None:
    stages = [(features(2, 3, 4, 4, seed=i), features(2, 4, 4, 4, seed=i + 9)) for i in range(3)]
    loss = AMDLoss()
    together = loss([s for s, _ in stages], [t for _, t in stages])
    assert together.item() == pytest.approx(sum(loss([s], [t]).item() for s, t in stages), rel=1e-12)


def test_stages_count_by_their_weights() -> None:
    stages = [(features(2, 3, 4, 4, seed=i), features(2, 4, 4, 4, seed=i + 9)) for i in range(3)]
    weighted = AMDLoss(stage_weights=[2, 0, 0.5])([s for s, _ in stages], [t for _, t in stages])
    alone = [AMDLoss()([s], [t]).item() for s, t in stages]
    assert weighted.item() == pytest.approx(2 * alone[0] + 0.5 * alone[2], rel=1e-12)


def test_a_stage_without_weight_is_not_computed() -> None:
    stage, point = features(2, 3, 4, 4), features(2, 3, 1, 1)
    weighted = AMDLoss(stage_weights=[1, 0])
    assert torch.equal(weighted([stage, point], [stage + 1, point]), AMDLoss()([stage], [stage + 1]))


@pytest.mark.parametrize("name", NAMED_MARGINS)
def test_named_margins_stand_for_their_numbers(name) -> None:
    student, teacher = features(2, 3, 4, 4, seed=1), features(2, 4, 4, 4, seed=2)
    multiplicative, additive, cosine = NAMED_MARGINS[name]
    named = AMDLoss(name)([student], [teacher])
    assert torch.equal(named, AMDLoss(multiplicative, additive, cosine)([student], [teacher]))
    others = [AMDLoss(other)([student], [teacher]).item() for other in NAMED_MARGINS if other != name]
    assert all(abs(named.item() - other) > 1e-9 for other in others)


@pytest.mark.parametrize("grid", [None, 2])
def test_the_parts_are_those_of_the_three_maps(grid) -> None:
    student, teacher = features(2, 3, 4, 4, seed=1), features(2, 4, 4, 4, seed=2)
    loss = AMDLoss(grid=grid)
    parts = loss.by_map([student], [teacher])
    assert parts.shape == (3,) and torch.equal(parts.sum(), loss([student], [teacher]))
    if grid is None:
        units = [torch.nn.functional.normalize(loss.maps(x).flatten(2), dim=2) for x in (student, teacher)]
        torch.testing.assert_close(parts, (units[0] - units[1]).square().mean(dim=(1, 2)) / 3)


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize(("margin", "additive", "cosine"), MARGINS)
def test_gradcheck(margin, additive, cosine, grid) -> None:
    student, teacher = features(2, 3, 4, 6, seed=1, grad=True), features(2, 3, 4, 6, seed=2)
    loss = AMDLoss(margin, additive, cosine, scale=4.0, grid=grid)
    assert torch.autograd.gradcheck(lambda s: loss([s], [teacher]), (student,))


FORMS = [{"centered": True}, {"normalization": "max"}, {"centered": True, "stage_weights": "balanced"}]


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_gradcheck_of_the_other_forms(options, grid) -> None:
    student, teacher = features(2, 3, 5, 6, seed=1, grad=True), features(2, 3, 5, 6, seed=2)
    loss = AMDLoss(scale=4.0, grid=grid, **options)
    assert torch.autograd.gradcheck(lambda s: loss([s], [teacher]), (student,))


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize("options", [{}, *FORMS], ids=str)
def test_student_equal_to_teacher_gives_zero(options, grid) -> None:
    stages = [features(3, 4, 8, 8, seed=1), features(3, 6, 4, 4, seed=2)]
    assert AMDLoss(grid=grid, **options)(stages, [stage.clone() for stage in stages]).item() == 0.0


def test_with_margin_one_the_positive_term_is_attention_transfer() -> None:
    student, teacher = features(3, 4, 5, 5, seed=1), features(3, 6, 5, 5, seed=2)
    loss = AMDLoss(margin=1.0)
    positive_s, positive_t = (loss.maps(stage)[1].flatten(1) for stage in (student, teacher))
    power_s, power_t = (stage.square().sum(1).flatten(1) for stage in (student, teacher))
    unit = torch.nn.functional.normalize
    ours = torch.nn.functional.mse_loss(unit(positive_s), unit(positive_t))
    attention_transfer = torch.nn.functional.mse_loss(unit(power_s), unit(power_t))
    torch.testing.assert_close(ours, attention_transfer, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [64.0, 200.0])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("options", [{}, {"centered": True, "normalization": "max"}], ids=str)
def test_every_precision_is_finite_and_near_float64(options, dtype, scale, magnitude) -> None:
    student = (features(2, 8, 8, 8, seed=1) * magnitude).to(dtype).requires_grad_()
    teacher = (features(2, 16, 8, 8, seed=2) * magnitude).to(dtype)
    loss = AMDLoss(scale=scale, **options)([student], [teacher])
    loss.backward()
    exact = AMDLoss(scale=scale, **options)([student.detach().double()], [teacher.double()])
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert student.grad is not None and student.grad.dtype == dtype
    assert student.grad.isfinite().all()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype) -> None:
    student, teacher = features(2, 8, 8, 8, seed=1).float(), features(2, 8, 8, 8, seed=2).float()
    with torch.autocast("cpu", dtype=dtype):
        inside = AMDLoss(grid=2)([student], [teacher])
    assert torch.equal(inside, AMDLoss(grid=2)([student], [teacher]))


@pytest.mark.parametrize(("margin", "additive"), [(1.35, 0.0), (1.0, 0.5), (1.5, 0.3), (3.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_is_finite_where_the_angle_is_zero_or_right(margin, additive, dtype) -> None:
    cosine = torch.tensor([0.0, 1e-30, 0.5, 1 - 1e-7, 1.0], dtype=dtype, requires_grad=True)
    value = cosine_with_margin(cosine, margin, additive)
    value.sum().backward()
    assert value.isfinite().all() and cosine.grad.isfinite().all()
    if additive == 0:
        assert value[-1].item() == 1.0
        assert cosine.grad[-1].item() == pytest.approx(margin**2, rel=1e-6)
        assert cosine.grad[-2].item() == pytest.approx(margin**2, rel=1e-3)


@pytest.mark.parametrize("teacher_kind", ["zero", "single", "constant"])
@pytest.mark.parametrize("student_kind", ["zero", "single", "constant"])
@pytest.mark.parametrize(("margin", "additive"), [(1.35, 0.0), (1.0, 0.2)])
def test_degenerate_maps_have_finite_gradients(student_kind, teacher_kind, margin, additive) -> None:
    def degenerate(kind: str) -> Tensor:
        stage = torch.zeros(2, 3, 4, 4)
        if kind == "single":
            stage[:, :, 1, 2] = 5.0
        return torch.ones_like(stage) if kind == "constant" else stage

    student = degenerate(student_kind).requires_grad_()
    loss = AMDLoss(margin, additive, grid=2)([student], [degenerate(teacher_kind)])
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_the_order_of_the_batch_does_not_matter() -> None:
    student, teacher, order = features(5, 3, 6, 6, seed=1), features(5, 4, 6, 6, seed=2), torch.tensor([3, 0, 4, 2, 1])
    loss = AMDLoss(grid=2)
    torch.testing.assert_close(loss([student[order]], [teacher[order]]), loss([student], [teacher]))
    assert abs(loss([student[order]], [teacher]).item() - loss([student], [teacher]).item()) > 1e-6


def test_the_scale_of_the_features_does_not_matter() -> None:
    student, teacher = features(2, 3, 6, 6, seed=1), features(2, 4, 6, 6, seed=2)
    torch.testing.assert_close(AMDLoss(eps=0.0)([student * 7], [teacher / 3]), AMDLoss(eps=0.0)([student], [teacher]))


def test_the_teacher_carries_no_gradient() -> None:
    student, teacher = features(2, 3, 4, 4, seed=1, grad=True), features(2, 3, 4, 4, seed=2, grad=True)
    AMDLoss()([student], [teacher]).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize(("ours", "theirs"), [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((5, 9), (7, 3)), ((1, 6), (2, 3))])
def test_unequal_sizes_are_pooled_before_normalising(ours, theirs) -> None:
    student, teacher = features(2, 3, *ours, seed=1), features(2, 4, *theirs, seed=2)
    size = (min(ours[0], theirs[0]), min(ours[1], theirs[1]))
    pooled = [torch.nn.functional.adaptive_avg_pool2d(s.square().sum(1), size) for s in (student, teacher)]
    torch.testing.assert_close(AMDLoss()([student], [teacher]), AMDLoss()(pooled[:1], pooled[1:]))


def test_power_maps_stand_for_their_features() -> None:
    student, teacher = features(2, 3, 4, 4, seed=1), features(2, 5, 4, 4, seed=2)
    loss = AMDLoss(power=3.0)
    reduced = loss([PowerMap(3.0)(student)], [PowerMap(3.0)(teacher)])
    assert torch.equal(reduced, loss([student], [teacher]))
    assert abs(reduced.item() - AMDLoss(power=2.0)([student], [teacher]).item()) > 1e-6


def test_patches_tile_the_map_also_where_the_grid_does_not_divide_it() -> None:
    maps = torch.arange(3 * 5 * 7, dtype=torch.float32).view(3, 5, 7)
    cells = list(patches(maps, 3))
    assert len(cells) == 9
    rows = [torch.cat(cells[i : i + 3], dim=2) for i in (0, 3, 6)]
    assert torch.equal(torch.cat(rows, dim=1), maps)


def test_a_batch_of_one_works() -> None:
    student, teacher = features(1, 3, 4, 4, seed=1), features(1, 3, 4, 4, seed=2)
    assert AMDLoss(grid=2)([student], [teacher]).item() > 0


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        ([(2, 3, 4, 4)], [], {}, "1 of the student and 0 of the teacher"),
        ([], [], {}, "non-empty"),
        ([(2, 3, 4, 4), (2, 3, 1, 1)], [(2, 3, 4, 4), (2, 3, 1, 1)], {}, "stage 1: a 1x1 map"),
        ([(2, 3, 4, 4)], [(3, 3, 4, 4)], {}, "stage 0: the student's batch holds 2"),
        ([(2, 3, 4, 4), (2, 3)], [(2, 3, 4, 4), (2, 3)], {}, "stage 1: expected the student's features"),
        ([(2, 3, 4, 4)], [(2, 3, 4, 4)], {"stage_weights": [1, 2]}, "2 stage_weights for 1 paired"),
    ],
)
def test_features_that_do_not_fit_are_named(student, teacher, options, message) -> None:
    with pytest.raises(InputError, match=message):
        AMDLoss(**options)([features(*shape) for shape in student], [features(*shape) for shape in teacher])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "margin"),
        ({"scale": -1.0}, "scale"),
        ({"power": 0.5}, "power"),
        ({"grid": 1}, "grid"),
        ({"scale": float("inf")}, "scale must be a finite number"),
        ({"additive_margin": True}, "additive_margin must be a finite number"),
        ({"local_weight": 1.5}, "local_weight"),
        ({"margin": "arcfase"}, "no margin 'arcfase'.*'arcface'"),
        ({"margin": "arcface", "cosine_margin": 0.1}, "sets all three margins"),
        ({"stage_weights": [1, -1]}, "stage_weights"),
        ({"stage_weights": [0, 0]}, "stage_weights"),
        ({"stage_weights": "even"}, "numbers, one a stage, or balanced, got 'even'"),
        ({"normalization": "mx"}, "no normalization 'mx'.*'max'"),
        ({"terms": ["positiv"]}, "no term 'positiv'.*'positive'.*terms=.angular,positive."),
        pytest.param({"terms": [1]}, "no term 1", marks=without_shape_checks),
        ({"terms": []}, r"terms must name some of angular, positive, negative, each once, got \[\]"),
        ({"terms": "angular,angular"}, "each once"),
        pytest.param({"terms": None}, "terms must name some of .*got None", marks=without_shape_checks),
    ],
)
def test_options_out_of_range_are_named(options, message) -> None:
    with pytest.raises(InputError, match=message):
        AMDLoss(**options)
