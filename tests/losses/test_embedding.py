"""Losses on the embeddings themselves, by cosine or squared distance, and SRD: slow oracles and laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.losses.embedding import EmbeddingMatch, SimpleRecipe, unit_vectors
from losses.feature_laws import PRECISIONS, assert_refused, bare, randomised

Rows = list[list[float]]
BATCH, STUDENT, TEACHER = 6, 3, 4


def embeddings(
    dtype: torch.dtype = torch.float64, batch: int = BATCH, dims: tuple[int, int] = (STUDENT, TEACHER)
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(batch, dim, dtype=torch.float64, generator=generator).to(dtype) for dim in dims)
    return student.requires_grad_(), teacher.requires_grad_()


CASES: dict[str, Callable[[], nn.Module]] = {
    "cosine": lambda: EmbeddingMatch(STUDENT, TEACHER),
    "mse": lambda: EmbeddingMatch(STUDENT, TEACHER, distance="mse"),
    "srd": lambda: SimpleRecipe(STUDENT, TEACHER),
    "srd squared": lambda: SimpleRecipe(STUDENT, TEACHER, power=2.0, eps=0.01),
}
each_case = pytest.mark.parametrize("name", CASES)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(CASES[name]())


def slow_linear(layer: nn.Linear, rows: Rows) -> Rows:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        [sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]
        for row in rows
    ]


def slow_cosine(student: Rows, teacher: Rows) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total += 1 - sum(a * b for a, b in zip(s, t, strict=True)) / (math.hypot(*s) * math.hypot(*t))
    return total / len(student)


def slow_mse(student: Rows, teacher: Rows) -> float:
    squares = [(a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


def slow_norm(rows: Rows) -> Rows:
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append([(x - mean) / math.sqrt(variance + 1e-4) for x in column])
    return [list(row) for row in zip(*columns, strict=True)]


def slow_recipe(student: Rows, teacher: Rows, power: float, eps: float) -> float:
    s, t = slow_norm(student), slow_norm(teacher)
    return math.log(
        eps + sum(abs(a - b) ** power for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True))
    )


@each_case
def test_equal_the_slow_oracle(name: str) -> None:
    loss, (student, teacher) = build(name).double(), embeddings()
    layer = loss.projector if isinstance(loss.projector, nn.Linear) else loss.projector[0]
    projected, target = slow_linear(layer, student.tolist()), teacher.tolist()
    slow = {
        "cosine": slow_cosine,
        "mse": slow_mse,
        "srd": lambda s, t: slow_recipe(s, t, 4, 1e-6),
        "srd squared": lambda s, t: slow_recipe(s, t, 2, 0.01),
    }[name]
    assert loss(student, teacher).item() == pytest.approx(slow(projected, target), rel=1e-9)


@each_case
def test_gradients(name: str) -> None:
    loss, (student, teacher) = build(name).double(), embeddings()
    assert torch.autograd.gradcheck(lambda leaf: loss(leaf, teacher), (student,))
    loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@each_case
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_every_precision(name: str, dtype: torch.dtype) -> None:
    loss = build(name).to(torch.promote_types(dtype, torch.float32))
    student, teacher = (300 * side.detach() for side in embeddings(dtype))
    student.requires_grad_()
    value = loss(student, teacher)
    assert value.isfinite() and torch.finfo(value.dtype).bits >= 32
    gradient = torch.autograd.grad(1e-6 * value, student)[0]
    assert gradient.dtype == dtype and gradient.isfinite().all()
    torch.testing.assert_close(
        loss(*(side.detach().to(value.dtype) for side in (student, teacher))), value, rtol=1e-6, atol=0
    )
    assert loss.bfloat16()(student, teacher).isfinite()


@each_case
def test_the_order_of_samples_does_not_matter(name: str) -> None:
    loss, (student, teacher) = build(name).double(), embeddings()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher), rtol=1e-12, atol=0)
    assert not torch.isclose(loss(student[order], teacher), loss(student, teacher))


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_equal_embeddings_give_zero_without_a_projector(distance: str) -> None:
    loss, (_, teacher) = EmbeddingMatch(TEACHER, TEACHER, distance), embeddings()
    assert not list(loss.parameters())
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-15)


def test_equal_embeddings_give_the_recipes_least_value_and_no_gradient() -> None:
    loss, (_, teacher) = SimpleRecipe(TEACHER, TEACHER).double(), embeddings()
    nn.init.eye_(loss.projector[0].weight)
    nn.init.zeros_(loss.projector[0].bias)
    student = teacher.detach().clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-6)) and student.grad.abs().max() < 1e-6


def test_a_projector_is_built_where_lengths_differ_or_always() -> None:
    assert isinstance(EmbeddingMatch(4, 4, projector="always").projector, nn.Linear)
    assert isinstance(EmbeddingMatch(4, 4).projector, nn.Identity)
    assert EmbeddingMatch(3, 4).projector.weight.shape == (4, 3)


def test_cosines_do_not_depend_on_lengths_and_embeddings_of_zeros_have_none() -> None:
    loss, (_, teacher) = EmbeddingMatch(TEACHER, TEACHER), embeddings()
    student = torch.randn(BATCH, TEACHER, dtype=torch.float64)
    torch.testing.assert_close(loss(1e-9 * student, 1e5 * teacher), loss(student, teacher))
    student[:2] = 0
    student.requires_grad_()
    loss(student, teacher).backward()
    assert torch.equal(student.grad[:2], torch.zeros(2, TEACHER, dtype=torch.float64)) and student.grad.isfinite().all()
    assert torch.equal(unit_vectors(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_one_sample_will_do_but_for_batch_normalisation() -> None:
    student, teacher = embeddings(batch=1)
    assert build("cosine").double()(student, teacher).isfinite()
    assert_refused(lambda: build("srd").double()(student, teacher), "cannot train on a single value a channel")
    assert build("srd").double().eval()(student, teacher).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EmbeddingMatch(3, 4, distance="l1"), "distance must be one of cosine, mse, got 'l1'"),
        (lambda: EmbeddingMatch(3, 4, projector="mlp"), "projector must be one of needed, always, got 'mlp'"),
        (lambda: EmbeddingMatch(0, 4), "student_dim must be at least 1"),
        (lambda: EmbeddingMatch(3, 0), "teacher_dim must be at least 1"),
        (lambda: SimpleRecipe(3, 0), "teacher_dim must be at least 1"),
        (lambda: SimpleRecipe(3, 4, power=0.0), "power must be positive"),
        (lambda: SimpleRecipe(3, 4, eps=0.0), "eps must be positive"),
        (
            lambda: bare(EmbeddingMatch(3, 4), torch.ones(2, 4), torch.ones(2, 4)),
            "the projector was built for 3 channels, got 4",
        ),
        (
            lambda: bare(EmbeddingMatch(3, 4), torch.ones(2, 3), torch.ones(2, 3)),
            "expected the teacher's embedding as [2, 4]",
        ),
        (
            lambda: bare(EmbeddingMatch(3, 3), torch.ones(2, 4), torch.ones(2, 3)),
            "expected the teacher's embedding as [2, 4]",
        ),
        (
            lambda: bare(SimpleRecipe(3, 4), torch.ones(2, 3), torch.ones(2, 5)),
            "SRD expected the teacher's embedding as [2, 4]",
        ),
        (lambda: bare(EmbeddingMatch(3, 4), torch.ones(3, 3), torch.ones(2, 4)), "the student's batch holds 3 samples"),
        (lambda: bare(EmbeddingMatch(3, 4), torch.ones(0, 3), torch.ones(0, 4)), "needs at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Any], message: str) -> None:
    assert_refused(call, message)
