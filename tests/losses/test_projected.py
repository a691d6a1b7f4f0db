"""Losses with learned modules: slow oracles written from the papers, laws, what trains and what is saved, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import StageError
from angularkd.losses.boundary import ActivationBoundaries, FeatureOverhaul, negative_mean
from angularkd.losses.classifier import SoftmaxRegression
from angularkd.losses.factor import FactorTransfer
from angularkd.losses.linked import AttentionLinks, ReviewKD
from angularkd.losses.projected import FitNet, MaskedGeneration, VariationalInformation
from angularkd.losses.projectors import project
from losses.feature_laws import (
    PRECISIONS,
    Shapes,
    assert_gradients,
    assert_permutation_invariant,
    assert_precision,
    assert_refused,
    assert_teacher_detached,
    random_features,
    randomised,
)
from losses.slow_layers import Array, array, context, match, pool, positions, power_map, run, unit

STUDENT: Shapes = [(3, 5, 4), (2, 3, 2)]
TEACHER: Shapes = [(5, 5, 4), (4, 3, 2)]
TEACHER_OTHER_SIZES: Shapes = [(5, 4, 6), (4, 2, 3)]
SMALL: Shapes = [(2, 3, 2), (2, 2, 2)]
SMALL_TEACHER: Shapes = [(3, 3, 3), (4, 1, 2)]

Build = Callable[[Shapes, Shapes], nn.Module]
BUILDS: dict[str, Build] = {
    "ab": ActivationBoundaries,
    "fitnet": FitNet,
    "factor": FactorTransfer,
    "vid": VariationalInformation,
    "ofd": FeatureOverhaul,
    "mgd": MaskedGeneration,
    "reviewkd": ReviewKD,
    "afd": lambda s, t: AttentionLinks(s, t, query_dim=3),
}
NEEDS_TWO_SAMPLES = ("afd",)


def built(name: str, student: Shapes = STUDENT, teacher: Shapes = TEACHER) -> nn.Module:
    torch.manual_seed(0)
    return randomised(BUILDS[name](student, teacher)).double()


def stage_arrays(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Array, Array]]:
    return [match(array(s), array(t)) for s, t in zip(student, teacher, strict=True)]


def slow_boundaries(loss: ActivationBoundaries, student: list[Tensor], teacher: list[Tensor]) -> float:
    total, stages = 0.0, stage_arrays(student, teacher)
    for i, (s, t) in enumerate(stages):
        s = run(loss.projectors[i], s)
        for x, y in zip(s.ravel(), t.ravel(), strict=True):
            distance = max(1 - x, 0.0) if y > 0 else max(1 + x, 0.0)
            total += 0.5 ** (len(stages) - 1 - i) * distance**2 * 3 / 1000 / len(s)
    return total


def slow_hints(loss: FitNet, student: list[Tensor], teacher: list[Tensor]) -> float:
    stages = enumerate(stage_arrays(student, teacher))
    return sum(float(((run(loss.regressors[i], s) - t) ** 2).mean()) for i, (s, t) in stages)


def slow_factors(loss: FactorTransfer, student: list[Tensor], teacher: list[Tensor]) -> float:
    total = 0.0
    for i, (s, t) in enumerate(stage_arrays(student, teacher)):
        translated, factor = run(loss.translators[i], s), run(loss.paraphrasers[i], t)
        assert factor.shape[1] == round(t.shape[1] / 2)
        units = [unit(f.reshape(len(f), -1)) for f in (translated, factor)]
        total += sum(abs(a - b) for a, b in zip(units[0].ravel(), units[1].ravel(), strict=True)) / units[0].size
        total += 0.002 * float(np.abs(run(loss.decoders[i], factor) - t).mean())
    return total


def slow_information(loss: VariationalInformation, student: list[Tensor], teacher: list[Tensor]) -> float:
    """The log likelihood of a normal distribution, less its constant."""
    total = 0.0
    for i, (s, t) in enumerate(stage_arrays(student, teacher)):
        mean = run(loss.regressors[i], s)
        for c in range(t.shape[1]):
            deviation = math.sqrt(math.log(1 + math.exp(loss.scales[i][c].item())) + 1e-5)
            for x, m in zip(t[:, c].ravel(), mean[:, c].ravel(), strict=True):
                density = math.exp(-(((x - m) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
                total -= (math.log(density) + math.log(2 * math.pi) / 2) / t.size
    return total


def slow_overhaul(loss: FeatureOverhaul, student: list[Tensor], teacher: list[Tensor]) -> float:
    total, stages = 0.0, stage_arrays(student, teacher)
    for i, (s, t) in enumerate(stages):
        s = run(loss.connectors[i], s)
        for c in range(t.shape[1]):
            negative = [x for x in t[:, c].ravel() if x < 0]
            margin = sum(negative) / len(negative) if negative else 0.0
            for x, y in zip(s[:, c].ravel(), t[:, c].ravel(), strict=True):
                target = y if y > margin else margin
                skipped = x <= target <= 0
                total += 0.0 if skipped else 0.5 ** (len(stages) - 1 - i) * (x - target) ** 2 / len(s)
    return total


def slow_generation(loss: MaskedGeneration, student: list[Tensor], teacher: list[Tensor]) -> float:
    """With the mask that the seed gives; the loss is in training mode."""
    total = 0.0
    for i, (s, t) in enumerate(stage_arrays(student, teacher)):
        aligned = run(loss.aligners[i], s)
        size = (len(t), t.shape[1], 1, 1) if loss.mask_channels else (len(t), 1, *t.shape[2:])
        mask = array(torch.rand(size)) >= loss.masked_share
        total += float(((run(loss.generators[i], aligned * mask) - t) ** 2).sum()) / len(t)
    return total


def slow_review(loss: ReviewKD, student: list[Tensor], teacher: list[Tensor]) -> float:
    total, residual = 0.0, None
    for i in reversed(range(len(student))):
        fusion, s, t = loss.fusions[i], array(student[i]), array(teacher[i])
        own = run(fusion.reduce, s)
        if residual is not None:
            deeper = np.zeros_like(own)
            for h, w in positions(own):
                row, column = h * residual.shape[2] // own.shape[2], w * residual.shape[3] // own.shape[3]
                deeper[..., h, w] = residual[..., row, column]
            gates = 1 / (1 + np.exp(-run(fusion.gate, np.concatenate([own, deeper], axis=1))))
            own = own * gates[:, 0:1] + deeper * gates[:, 1:2]
        residual = own
        total += context(*match(run(fusion.expand, own), t))
    return total


def slow_links(loss: AttentionLinks, student: list[Tensor], teacher: list[Tensor]) -> float:
    students, teachers = [array(s) for s in student], [array(t) for t in teacher]
    queries = [run(m, t.mean(axis=(2, 3))) for m, t in zip(loss.queries, teachers, strict=True)]
    keys = [run(m, s.mean(axis=(2, 3))) for m, s in zip(loss.keys, students, strict=True)]
    batch, dim = queries[0].shape
    rows = run(loss.bilinear, np.stack([key[b] for b in range(batch) for key in keys]))
    total = 0.0
    for b in range(batch):
        for i, t in enumerate(teachers):
            scores, distances = [], []
            target = unit(power_map(t)[b].reshape(1, -1))[0]
            for j, s in enumerate(students):
                key = rows[b * len(students) + j][i * dim : (i + 1) * dim]
                position = float(array(loss.teacher_positions)[i] @ array(loss.student_positions)[j])
                scores.append((float(key @ queries[i][b]) + position) / math.sqrt(dim))
                sampled = unit(pool(power_map(s), *t.shape[2:])[b].reshape(1, -1))[0]
                distances.append(float(((sampled - target) ** 2).mean()))
            weights = [math.exp(score) for score in scores]
            total += sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights) / batch
    return total


ORACLES: dict[str, Callable[..., float]] = {
    "ab": slow_boundaries,
    "fitnet": slow_hints,
    "factor": slow_factors,
    "vid": slow_information,
    "ofd": slow_overhaul,
    "mgd": slow_generation,
    "reviewkd": slow_review,
    "afd": slow_links,
}


@pytest.mark.parametrize("teacher", [TEACHER, TEACHER_OTHER_SIZES, STUDENT], ids=["wider", "other sizes", "same"])
@pytest.mark.parametrize("name", ORACLES)
def test_equals_the_slow_oracle(name: str, teacher: Shapes) -> None:
    student_features, teacher_features = random_features(STUDENT, 0), random_features(teacher, 1)
    loss = built(name, STUDENT, teacher)
    torch.manual_seed(3)
    value = loss(student_features, teacher_features)
    torch.manual_seed(3)
    assert value.shape == ()
    assert value.item() == pytest.approx(ORACLES[name](loss, student_features, teacher_features), rel=1e-10)


def test_the_papers_variants() -> None:
    student, teacher = random_features(STUDENT, 0), random_features(TEACHER, 1)
    sizes = [math.prod(shape) for shape in TEACHER]
    for i, size in enumerate(sizes):
        shapes, features = ([STUDENT[i]], [TEACHER[i]]), ([student[i]], [teacher[i]])
        for build, factor in ((FitNet, size / 2), (VariationalInformation, size), (MaskedGeneration, size)):
            torch.manual_seed(0)
            mean = build(*shapes, per_element=True).double().eval()
            total = build(*shapes, per_element=False).double().eval()
            total.load_state_dict(mean.state_dict())
            torch.testing.assert_close(total(*features), factor * mean(*features), rtol=1e-12, atol=0)


def test_masks_cover_positions_or_channels() -> None:
    features = torch.ones(50, 6, 8, 8)
    positions_gone = MaskedGeneration([(6, 8, 8)], [(6, 8, 8)], masked_share=0.4)._masked(features) == 0
    assert torch.equal(positions_gone, positions_gone[:, :1].expand_as(features))
    assert positions_gone.float().mean().item() == pytest.approx(0.4, abs=0.03)
    channels_gone = MaskedGeneration([(6, 8, 8)], [(6, 8, 8)], 0.4, mask_channels=True)._masked(features) == 0
    assert torch.equal(channels_gone, channels_gone[:, :, :1, :1].expand_as(features))
    assert channels_gone.float().mean().item() == pytest.approx(0.4, abs=0.1)


def test_nothing_is_masked_in_eval_mode() -> None:
    student, teacher = random_features(STUDENT, 0), random_features(TEACHER, 1)
    loss = built("mgd")
    assert loss(student, teacher) != loss(student, teacher)
    assert loss.eval()(student, teacher) == loss(student, teacher)
    unmasked = MaskedGeneration(STUDENT, TEACHER, masked_share=0.0).double()
    unmasked.load_state_dict(loss.state_dict())
    assert unmasked(student, teacher) == loss(student, teacher)


@pytest.mark.parametrize("name", BUILDS)
def test_gradients(name: str) -> None:
    loss = built(name, SMALL, SMALL_TEACHER)
    assert_gradients(loss, random_features(SMALL, 2), random_features(SMALL_TEACHER, 3))


@pytest.mark.parametrize("name", BUILDS)
def test_the_teacher_carries_no_gradient(name: str) -> None:
    assert_teacher_detached(built(name), random_features(STUDENT, 4), random_features(TEACHER, 5))


@pytest.mark.parametrize("name", BUILDS)
def test_batch_permutation(name: str) -> None:
    loss = built(name)
    if name == "mgd":  # a mask belongs to a place in the batch
        loss.eval()
    assert_permutation_invariant(loss, random_features(STUDENT, 6), random_features(TEACHER, 7))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", BUILDS)
def test_every_precision(name: str, dtype: torch.dtype) -> None:
    loss = built(name).to(torch.promote_types(dtype, torch.float32))
    assert_precision(loss, (STUDENT, TEACHER), dtype)


@pytest.mark.parametrize("name", BUILDS)
def test_half_and_mixed_modules(name: str) -> None:
    for module_type, feature_type in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.float64)):
        student = random_features(STUDENT, 8, dtype=feature_type)
        value = built(name).to(module_type)(student, random_features(TEACHER, 9, dtype=feature_type))
        assert value.isfinite()
        assert torch.finfo(value.dtype).bits >= 32
        for gradient in torch.autograd.grad(value, student):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", BUILDS)
def test_autocast_reaches_the_projectors_alone(name: str) -> None:
    student = random_features(STUDENT, 8, dtype=torch.float32)
    teacher = random_features(TEACHER, 9, dtype=torch.float32)
    loss = built(name).float().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teacher), rtol=0.02, atol=1e-3)
    for gradient in torch.autograd.grad(value, student):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in NEEDS_TWO_SAMPLES])
def test_a_batch_of_one(name: str) -> None:
    value = built(name)(random_features(STUDENT, 8, batch=1), random_features(TEACHER, 9, batch=1))
    assert value.isfinite()


@pytest.mark.parametrize("name", BUILDS)
def test_everything_learned_trains_with_the_student_and_is_saved(name: str) -> None:
    torch.manual_seed(0)
    loss = BUILDS[name](STUDENT, TEACHER)
    student, teacher = (random_features(s, i, dtype=torch.float32) for i, s in enumerate((STUDENT, TEACHER)))
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    parameters = dict(loss.named_parameters())
    assert parameters and set(parameters) <= set(before)
    optimiser = torch.optim.Adam([*parameters.values(), *student], lr=0.01)
    values = []
    for _ in range(20):
        optimiser.zero_grad()
        torch.manual_seed(0)
        value = loss(student, teacher)
        value.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in parameters.values())
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0]
    assert all(not torch.equal(before[key], parameter) for key, parameter in parameters.items())
    again = BUILDS[name](STUDENT, TEACHER)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.eval()(student, teacher), loss.eval()(student, teacher))


def like_identity(name: str, shapes: Shapes) -> nn.Module:
    """The loss between equal shapes, with identities for everything that it learned."""
    loss = built(name, shapes, shapes).eval()
    for part in ("regressors", "connectors", "aligners", "generators"):
        if hasattr(loss, part):
            setattr(loss, part, nn.ModuleList(nn.Identity() for _ in shapes))
    if isinstance(loss, ReviewKD):
        loss.fusions[-1].reduce = loss.fusions[-1].expand = nn.Identity()
    if isinstance(loss, FactorTransfer):
        loss.translators.load_state_dict(loss.paraphrasers.state_dict())
        loss.reconstruction_weight = 0.0
    return loss


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in ("ab", "vid")])
def test_a_student_like_its_teacher_is_at_the_minimum(name: str) -> None:
    shapes = STUDENT[:1]  # one stage: those that link stages have nothing to link
    teacher = random_features(shapes, 10)
    student = random_features(shapes, 10)
    value = like_identity(name, shapes)(student, teacher)
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12


def test_boundaries_at_their_minimum() -> None:
    teacher = [torch.randn(2, *shape) for shape in STUDENT]
    student = [2 * stage.sign() for stage in teacher]
    assert ActivationBoundaries(STUDENT, STUDENT)(student, teacher) == 0


def test_information_at_its_minimum() -> None:
    features = random_features(STUDENT, 11)
    loss = like_identity("vid", STUDENT)
    expected = sum((torch.nn.functional.softplus(scale) + 1e-5).log().mean().item() / 2 for scale in loss.scales)
    assert loss(features, features).item() == pytest.approx(expected, rel=1e-12)


def test_information_starts_with_the_variance_asked_for() -> None:
    loss = VariationalInformation(STUDENT, TEACHER, initial_variance=3.0, hidden_channels=7)
    for scale, (channels, _, _) in zip(loss.scales, TEACHER, strict=True):
        torch.testing.assert_close(torch.nn.functional.softplus(scale) + 1e-5, torch.full((channels,), 3.0))
    assert loss.regressors[0][0].out_channels == 7


def layers(module: nn.Module) -> str:
    """The layers in order: c3/c1 for a convolution of that size (c1- without bias), fc, bn, and activations."""
    names = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            names.append(f"c{layer.kernel_size[0]}{'-' if layer.bias is None else ''}")
        elif isinstance(layer, nn.Linear):
            names.append("fc" if layer.bias is not None else "fc-")
        elif not isinstance(layer, nn.Sequential):
            names.append({"BatchNorm1d": "bn", "BatchNorm2d": "bn", "Identity": "id"}.get(*[type(layer).__name__] * 2))
    return " ".join(names)


def test_the_learned_layers_are_those_of_the_papers() -> None:
    loss = {name: build(STUDENT, TEACHER) for name, build in BUILDS.items()}
    factor = "c3 LeakyReLU c3 LeakyReLU c3 LeakyReLU"
    assert layers(loss["ab"].projectors[0]) == layers(loss["ofd"].connectors[0]) == "c1- bn"
    assert layers(loss["fitnet"].regressors[0]) == "c1 bn ReLU"
    assert layers(loss["mgd"].aligners[0]) == "c1"
    assert layers(loss["mgd"].generators[0]) == "c3 ReLU c3"
    assert layers(loss["vid"].regressors[0]) == "c1- ReLU c1- ReLU c1-"
    for module in (loss["factor"].translators[0], loss["factor"].paraphrasers[0], loss["factor"].decoders[0]):
        assert layers(module) == factor
    assert layers(loss["reviewkd"].fusions[0].reduce) == "c1- bn"
    assert layers(loss["reviewkd"].fusions[0].gate) == "c1"
    assert layers(loss["reviewkd"].fusions[0].expand) == "c3- bn"
    assert loss["reviewkd"].fusions[1].gate is None
    assert loss["reviewkd"].fusions[0].reduce[0].out_channels == 2
    assert layers(loss["afd"].queries[0]) == layers(loss["afd"].bilinear) == "fc bn"
    assert layers(loss["afd"].keys[0]) == "fc bn ReLU"
    assert layers(regression().connector) == "fc- bn ReLU"


def test_projectors_stand_only_where_they_are_needed() -> None:
    mixed = ([(3, 4, 4), (2, 2, 2)], [(3, 4, 4), (4, 2, 2)])
    kinds = [type(regressor) for regressor in FitNet(*mixed, bare=True).regressors]
    assert kinds == [nn.Identity, nn.Conv2d]
    assert [type(r) for r in FitNet(*mixed, bare=True, always_regress=True).regressors] == [nn.Conv2d, nn.Conv2d]
    assert [layers(regressor) for regressor in FitNet(*mixed).regressors] == ["c1 bn ReLU"] * 2
    assert isinstance(ActivationBoundaries(*mixed).projectors[0], nn.Identity)
    assert list(FitNet(bare=True).parameters()) == list(ActivationBoundaries().parameters()) == []
    assert list(FactorTransfer(STUDENT, TEACHER, rate=None).parameters()) == []


def test_the_paraphraser_learns_from_its_reconstruction_alone() -> None:
    loss = FactorTransfer(STUDENT, TEACHER, reconstruction_weight=0.0).double()
    loss(random_features(STUDENT, 0), random_features(TEACHER, 1)).backward()
    for module in (loss.paraphrasers, loss.decoders):
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.parameters())
    assert all(parameter.grad.any() for parameter in loss.translators.parameters())


def test_the_paraphraser_learns_to_rebuild_the_teachers_features_beside_the_student() -> None:
    """At the authors' weight, with plain gradient descent: the target that it makes is worth reaching."""
    torch.manual_seed(0)
    loss = FactorTransfer(STUDENT[:1], [(6, 5, 4)])
    student = random_features(STUDENT[:1], 0, batch=8, dtype=torch.float32)
    teacher = [student[0].detach().relu().repeat_interleave(2, dim=1)]
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.1, momentum=0.9)

    def rebuilt() -> float:
        with torch.no_grad():
            return float((loss.decoders[0](loss.paraphrasers[0](teacher[0])) - teacher[0]).abs().mean())

    first = rebuilt()
    for _ in range(300):
        optimiser.zero_grad()
        (500 * loss(student, teacher)).backward()
        optimiser.step()
    assert rebuilt() < 0.6 * first


def test_margins_are_the_means_of_the_negative_values() -> None:
    features = torch.tensor([[-1.0, 2.0], [-3.0, 0.0]]).reshape(2, 1, 1, 2)
    assert negative_mean(features).flatten().tolist() == [-2.0]
    assert negative_mean(features.relu()).flatten().tolist() == [0.0]


def test_overhaul_ignores_a_student_below_the_margin() -> None:
    loss = like_identity("ofd", [(1, 1, 2)])
    teacher = torch.tensor([[[[-1.0, 3.0]]]], dtype=torch.float64)
    for first, expected in ((-9.0, 0.0), (-1.0, 0.0), (1.0, 4.0)):
        student = torch.tensor([[[[first, 3.0]]]], dtype=torch.float64)
        assert loss([student], [teacher]).item() == expected


def test_links_take_unequal_numbers_of_stages() -> None:
    student, teacher = random_features(STUDENT, 0), random_features([*TEACHER, (3, 2, 2)], 1)
    loss = built("afd", STUDENT, [*TEACHER, (3, 2, 2)])
    value = loss(student, teacher)
    assert value.item() == pytest.approx(slow_links(loss, student, teacher), rel=1e-10)
    attention = loss._attention(student, [stage.detach() for stage in teacher])
    assert attention.shape == (3, 3, 2)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 3, dtype=torch.float64))


def regression(**options: Any) -> SoftmaxRegression:
    torch.manual_seed(0)
    loss = SoftmaxRegression(3, 4, torch.randn(5, 4), **options)
    return randomised(loss).double()


def embeddings(dtype: torch.dtype = torch.float64, batch: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, dim, generator=generator).to(dtype) for dim in (3, 4))
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.mark.parametrize("options", [{}, {"logit_weight": 0.25, "relu": False}])
def test_regression_equals_the_slow_oracle(options: dict[str, Any]) -> None:
    loss, (student, teacher) = regression(**options), embeddings()
    s, t = run(loss.connector, array(student)), array(teacher)
    assert ((s >= 0).all()) == options.get("relu", True)
    head = nn.Linear(4, 5)
    head.weight.data = loss.head_weight  # with a bias, which cancels
    expected = float(((s - t) ** 2).mean()) + options.get("logit_weight", 1.0) * float(
        ((run(head, s) - run(head, t)) ** 2).mean()
    )
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_regression_satisfies_the_laws() -> None:
    loss, (student, teacher) = regression(), embeddings()
    assert torch.autograd.gradcheck(lambda leaf: loss(leaf, teacher.detach()), (student,))
    loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher), rtol=1e-12, atol=0)
    assert not torch.isclose(loss(student[order], teacher), loss(student, teacher))
    loss.connector = nn.Identity()
    assert loss(teacher, teacher) == 0


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_regression_in_every_precision(dtype: torch.dtype) -> None:
    loss = regression().to(torch.promote_types(dtype, torch.float32))
    student, teacher = (300 * leaf.detach() for leaf in embeddings(dtype))
    student.requires_grad_()
    value = loss(student, teacher)
    assert value.isfinite() and torch.finfo(value.dtype).bits >= 32
    assert torch.autograd.grad(1e-6 * value, student)[0].isfinite().all()
    wide = [leaf.detach().to(value.dtype) for leaf in (student, teacher)]
    torch.testing.assert_close(loss(*wide), value, rtol=1e-6, atol=0)
    assert loss.bfloat16()(student, teacher).isfinite()


def test_regression_keeps_the_head_frozen_out_of_checkpoints_and_on_the_device() -> None:
    weight = nn.Parameter(torch.randn(5, 4))
    loss = SoftmaxRegression(3, 4, weight)
    assert set(dict(loss.named_parameters())) == {"connector.0.weight", "connector.1.weight", "connector.1.bias"}
    assert not any(key.startswith("head") for key in loss.state_dict())
    assert "head_weight" in dict(loss.named_buffers())
    weight.data.zero_()
    assert loss.head_weight.any()


def test_regression_on_a_batch_of_one() -> None:
    student, teacher = embeddings(batch=1)
    assert_refused(lambda: regression()(student, teacher), "cannot train on a single value a channel")
    assert regression().eval()(student, teacher).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FitNet(STUDENT), "one of student_shapes and teacher_shapes is missing"),
        (lambda: FitNet(STUDENT, TEACHER[:1]), "got 2 student_shapes and 1 teacher_shapes"),
        (lambda: VariationalInformation([], []), "student_shapes is empty"),
        (
            lambda: ReviewKD(STUDENT, [(5, 5, 4), (4, 0, 2)]),
            "stage 1: expected the teacher's (channels, height, width)",
        ),
        (lambda: ReviewKD(STUDENT, TEACHER, mid_channels=0), "mid_channels must be at least 1"),
        (lambda: ReviewKD(STUDENT, TEACHER, levels=[0]), "levels are the sides of pooling grids"),
        (lambda: AttentionLinks(STUDENT, TEACHER, query_dim=0), "query_dim must be at least 1"),
        (lambda: VariationalInformation(STUDENT, TEACHER, initial_variance=0.0), "initial_variance must exceed eps"),
        (lambda: VariationalInformation(STUDENT, TEACHER, hidden_channels=0), "hidden_channels must be at least 1"),
        (lambda: MaskedGeneration(STUDENT, TEACHER, masked_share=1.0), "masked_share must lie in 0..1"),
        (lambda: FactorTransfer(STUDENT, TEACHER, rate=0.1), "rate 0.1 leaves [0, 0] channels"),
        (lambda: FactorTransfer(STUDENT, TEACHER, rate=1.5), "rate 1.5 leaves [8, 6] channels"),
        (lambda: SoftmaxRegression(3, 4, torch.ones(5, 3)), "head_weight must be [classes, 4]"),
        (lambda: SoftmaxRegression(3, 4, None), "got None: give the weight of the teacher's last linear layer"),
        (lambda: regression()(torch.ones(2, 4), torch.ones(2, 4)), "the projector was built for 3 channels, got 4"),
        (lambda: regression()(torch.ones(2, 3), torch.ones(2, 3)), "SRRL expected the teacher's embedding as [2, 4]"),
    ],
)
def test_options_that_do_not_fit(call: Callable[[], Any], message: str) -> None:
    assert_refused(call, message)


@pytest.mark.parametrize("name", BUILDS)
def test_features_that_are_not_those_it_was_built_for(name: str) -> None:
    student, teacher = random_features(STUDENT, 0), random_features(TEACHER, 1)
    loss = built(name)
    assert_refused(lambda: loss(student[:1], teacher[:1]), "was built for 2 stages")
    with pytest.raises(StageError, match="stage 0: the projector was built for 3 channels, got 2"):
        loss([student[1], student[1]], teacher)
    assert_refused(lambda: loss(student, [teacher[0], teacher[0]]), "stage 1: the ")
    assert_refused(lambda: loss(student, [teacher[0], teacher[1][:2]]), "stage 1: the ")
    assert_refused(lambda: loss([student[0][0], student[1]], teacher), "stage 0: expected the student's features as")


@pytest.mark.parametrize("name", ["ab", "fitnet", "ofd", "reviewkd"])
def test_batch_normalisation_needs_more_than_one_value(name: str) -> None:
    shapes = ([(3, 4, 4), (2, 1, 1)], [(5, 4, 4), (4, 1, 1)])
    student, teacher = (random_features(side, 0, batch=1) for side in shapes)
    loss = built(name, *shapes)
    assert_refused(lambda: loss(student, teacher), "stage 1: batch normalisation cannot train on a single value")
    assert loss.eval()(student, teacher).isfinite()


def test_links_need_two_samples_and_maps() -> None:
    loss = built("afd")
    student, teacher = random_features(STUDENT, 0, batch=1), random_features(TEACHER, 1, batch=1)
    assert_refused(lambda: loss(student, teacher), "stage 0: batch normalisation cannot train on a single value")
    assert loss.eval()(student, teacher).isfinite()
    flat = [student[0], student[1][..., :1, :1]]
    assert_refused(lambda: loss(flat, teacher), "stage 1: a 1x1 map has no direction")


def test_an_identity_leaves_features_alone() -> None:
    features = torch.ones(1, 2, 1, 1)
    assert project(0, nn.Identity(), features) is features


@pytest.mark.parametrize(("last", "expected"), [(6, 6), (600, 512)])
def test_review_fuses_in_the_channels_of_the_students_last_stage_at_most_512(last: int, expected: int) -> None:
    student, teacher = [(3, 4, 4), (last, 2, 3)], [(5, 4, 4), (7, 2, 3)]
    assert {fusion.reduce[0].out_channels for fusion in ReviewKD(student, teacher).fusions} == {expected}


def test_autocast_leaves_the_regressions_head_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, head = (torch.randn(n, 4, generator=generator) for n in (6, 6, 5))
    loss = SoftmaxRegression(4, 4, head)
    loss.connector = nn.Identity()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert torch.equal(loss(student, teacher), value)


def test_autocast_leaves_the_links_positions_alone() -> None:
    shapes = [(3, 5, 4), (2, 3, 2)]
    student, teacher = (random_features(shapes, seed, dtype=torch.float32) for seed in (0, 1))
    loss = AttentionLinks(shapes, shapes, query_dim=3)
    for part in loss.modules():
        if isinstance(part, nn.BatchNorm1d):  # queries and keys are 0: only the positions speak
            nn.init.zeros_(part.weight)
    nn.init.normal_(loss.teacher_positions, std=3, generator=torch.Generator().manual_seed(2))
    nn.init.normal_(loss.student_positions, std=3, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert torch.equal(loss(student, teacher), value)
