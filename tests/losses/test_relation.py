"""Losses on relations between samples: golden values, slow oracles written from the papers, gradients, and edges."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.losses.relation import (
    CorrelationCongruence,
    ProbabilisticKnowledgeTransfer,
    RelationalKD,
    SimilarityPreserving,
)
from losses.feature_laws import bare, without_shape_checks

Rows = list[list[float]]
HALVES = (torch.bfloat16, torch.float16)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return dot(a, b) / (math.hypot(*a) * math.hypot(*b))


def slow_similarity(student: Rows, teacher: Rows) -> float:
    def matrix(rows: Rows) -> Rows:
        products = [[dot(a, b) for b in rows] for a in rows]
        return [[x / math.hypot(*row) for x in row] for row in products]

    s, t = matrix(student), matrix(teacher)
    b = range(len(s))
    return sum((t[i][j] - s[i][j]) ** 2 for i in b for j in b) / len(s) ** 2


def slow_neighbours(student: Rows, teacher: Rows) -> float:
    total = 0.0
    for i in range(len(student) - 1):
        for k in range(len(student[0])):
            here, following = student[i][k] - teacher[i][k], student[i + 1][k] - teacher[i + 1][k]
            total += abs(here) * abs(following)
    return total / (len(student) - 1)


def slow_rbf(student: Rows, teacher: Rows, gamma: float, order: int) -> float:
    def kernel(a: list[float], b: list[float]) -> float:
        terms = [(2 * gamma) ** p / math.factorial(p) * cosine(a, b) ** p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(terms)

    b = range(len(student))
    squares = [(kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for i in b for j in b]
    return sum(squares) / len(squares)


def slow_probabilistic(student: Rows, teacher: Rows, exclude_self: bool) -> float:
    def probabilities(rows: Rows, i: int, others: list[int]) -> list[float]:
        kernel = [(cosine(rows[i], rows[j]) + 1) / 2 for j in others]
        return [k / sum(kernel) for k in kernel]

    terms = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i or not exclude_self]
        p, q = probabilities(teacher, i, others), probabilities(student, i, others)
        terms += [a * math.log((a + 1e-7) / (b + 1e-7)) for a, b in zip(p, q, strict=True)]
    return sum(terms) / len(terms)


def slow_relational(student: Rows, teacher: Rows, distance_weight: float, angle_weight: float) -> float:
    b = range(len(student))

    def huber(x: float) -> float:
        return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5

    def distances(rows: Rows) -> list[float]:
        all_pairs = [math.dist(rows[i], rows[j]) for i in b for j in b]
        positive = [d for d in all_pairs if d > 0]
        return [d / (sum(positive) / len(positive)) for d in all_pairs]

    def angle(rows: Rows, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        first = [y - x for x, y in zip(rows[i], rows[j], strict=True)]
        second = [y - x for x, y in zip(rows[i], rows[k], strict=True)]
        return cosine(first, second)

    by_distance = [huber(s - t) for s, t in zip(distances(student), distances(teacher), strict=True)]
    by_angle = [huber(angle(student, i, j, k) - angle(teacher, i, j, k)) for i in b for j in b for k in b]
    return distance_weight * sum(by_distance) / len(by_distance) + angle_weight * sum(by_angle) / len(by_angle)


LOSSES: dict[str, tuple[Callable[[], nn.Module], Callable[[Rows, Rows], float]]] = {
    "cc": (CorrelationCongruence, slow_neighbours),
    "cc-rbf": (
        lambda: CorrelationCongruence("rbf", gamma=0.7, order=3),
        lambda s, t: slow_rbf(s, t, gamma=0.7, order=3),
    ),
    "pkt": (ProbabilisticKnowledgeTransfer, lambda s, t: slow_probabilistic(s, t, exclude_self=False)),
    "pkt-others": (
        lambda: ProbabilisticKnowledgeTransfer(exclude_self=True),
        lambda s, t: slow_probabilistic(s, t, exclude_self=True),
    ),
    "rkd": (
        lambda: RelationalKD(distance_weight=3.0, angle_weight=7.0),
        lambda s, t: slow_relational(s, t, distance_weight=3.0, angle_weight=7.0),
    ),
    "sp": (SimilarityPreserving, slow_similarity),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
UNEQUAL_WIDTHS = ["cc-rbf", "pkt", "pkt-others", "rkd", "sp"]


def evaluate(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss of two embeddings; to SP they are features of one stage, of size 1 x 1."""
    if isinstance(loss, SimilarityPreserving):
        return loss([student[..., None, None]], [teacher[..., None, None]])
    return loss(student, teacher)


def build(name: str) -> nn.Module:
    return LOSSES[name][0]()


def example(batch: int = 5, student: int = 6, teacher: int = 6) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(batch * 100 + student)
    first = torch.randn(batch, student, generator=random, dtype=torch.float64)
    return first.requires_grad_(), torch.randn(batch, teacher, generator=random, dtype=torch.float64)


def test_sp_is_golden(golden: Any) -> None:
    student = golden.stages("student")
    golden.check("sp", SimilarityPreserving()(student, golden.stages("teacher")), student)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("pkt", ProbabilisticKnowledgeTransfer()),
        ("cc", CorrelationCongruence()),
        ("rkd", RelationalKD(distance_weight=25.0, angle_weight=50.0)),
    ],
    ids=["pkt", "cc", "rkd"],
)
def test_losses_on_embeddings_are_golden(golden: Any, name: str, loss: nn.Module) -> None:
    student = golden["student_embedding"]
    golden.check(name, loss(student, golden["teacher_embedding"]), student)


@each_loss
@pytest.mark.parametrize("size", [(3, 4, 4), (4, 7, 7), (7, 3, 3)], ids=str)
def test_equals_the_paper_pair_by_pair(name: str, size: tuple[int, int, int]) -> None:
    student, teacher = example(*size)
    expected = LOSSES[name][1](student.tolist(), teacher.tolist())
    assert evaluate(build(name), student, teacher).item() == pytest.approx(
        expected, rel=1e-5 if "pkt" in name else 1e-10
    )


@pytest.mark.parametrize("name", UNEQUAL_WIDTHS)
def test_widths_need_not_agree(name: str) -> None:
    student, teacher = example(4, 5, 9)
    expected = LOSSES[name][1](student.tolist(), teacher.tolist())
    assert evaluate(build(name), student, teacher).item() == pytest.approx(
        expected, rel=1e-5 if "pkt" in name else 1e-10
    )


def test_sp_sums_stages_of_unequal_channels_and_odd_sizes() -> None:
    random = torch.Generator().manual_seed(3)
    shapes = [((4, 3, 5, 7), (4, 6, 9, 4)), ((4, 8, 1, 3), (4, 2, 2, 2))]
    stages = [tuple(torch.randn(shape, generator=random, dtype=torch.float64) for shape in pair) for pair in shapes]
    students, teachers = zip(*stages, strict=True)
    expected = sum(slow_similarity(s.flatten(1).tolist(), t.flatten(1).tolist()) for s, t in stages)
    assert SimilarityPreserving()(students, teachers).item() == pytest.approx(expected, rel=1e-10)


@each_loss
def test_gradients(name: str) -> None:
    student, teacher = example(4, 3, 3)
    loss = build(name)
    assert torch.autograd.gradcheck(lambda x: evaluate(loss, x, teacher), student)
    teacher.requires_grad_()
    evaluate(loss, student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0


@each_loss
def test_the_teachers_own_embedding_costs_nothing(name: str) -> None:
    _, teacher = example()
    loss = build(name)
    student = teacher.clone().requires_grad_()
    value = evaluate(loss, student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert student.grad is not None and student.grad.abs().max() < 1e-7
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        other = teacher + 0.1 * torch.randn(teacher.shape, generator=random, dtype=torch.float64)
        assert evaluate(loss, other, teacher) > 1e-7


@pytest.mark.parametrize("name", ["cc-rbf", "pkt", "pkt-others", "rkd", "sp"])
def test_the_relations_ignore_rotation_and_scale(name: str) -> None:
    _, teacher = example()
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert evaluate(build(name), 3 * teacher @ rotation, teacher).item() == pytest.approx(0, abs=1e-12)


@each_loss
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4], ids=["small", "usual", "large"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_every_precision_is_finite(name: str, scale: float, dtype: torch.dtype) -> None:
    student, teacher = example()
    student = (student.detach() * scale).to(dtype).requires_grad_()
    teacher = (teacher * scale).to(dtype)
    value = evaluate(build(name), student, teacher)
    value.backward()
    assert value.isfinite() and value.dtype == (torch.float32 if dtype in HALVES else dtype)
    assert student.grad is not None and student.grad.isfinite().all()
    if dtype in HALVES:  # widened first: nothing is lost but the inputs' own digits
        assert torch.equal(value, evaluate(build(name), student.detach().float(), teacher.float()))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_coincide_or_vanish_have_finite_gradients(name: str, dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype) for x in example())
    student[1] = student[0]
    student[2] = 0
    for fixture in (student, torch.zeros_like(student), torch.ones_like(student)):
        collapsed = fixture.clone().requires_grad_()
        value = evaluate(build(name), collapsed, teacher)
        value.backward()
        assert value.isfinite() and collapsed.grad is not None and collapsed.grad.isfinite().all()


@pytest.mark.parametrize("name", ["pkt", "pkt-others", "cc-rbf", "sp"])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_gradients_stay_small_where_samples_vanish(name: str, all_of_them: bool) -> None:
    student, teacher = (x.detach().float() for x in example())
    student[slice(None) if all_of_them else 2] = 0
    student.requires_grad_()
    evaluate(build(name), student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() < 10


def test_pkt_divides_by_norm_and_eps_away_from_zeros() -> None:
    student, teacher = (x.detach().float() for x in example())
    probabilities = []
    for embedding in (student, teacher):
        unit = embedding / (torch.linalg.vector_norm(embedding, dim=1, keepdim=True) + 1e-7)
        kernel = (unit @ unit.mT + 1) / 2
        probabilities.append(kernel / kernel.sum(dim=1, keepdim=True))
    ours, theirs = probabilities
    expected = (theirs * torch.log((theirs + 1e-7) / (ours + 1e-7))).sum() / 25
    assert torch.equal(ProbabilisticKnowledgeTransfer()(student, teacher), expected)


@without_shape_checks
@pytest.mark.parametrize("embedding", [None, torch.ones(4), torch.ones(4, 6, 1), torch.ones(4, 6).int(), "embedding"])
@pytest.mark.parametrize("name", ["pkt", "cc", "rkd"])
def test_what_is_no_embedding_is_named(name: str, embedding: Any) -> None:
    with pytest.raises(InputError, match=r"takes the teacher's embedding as floats \[batch, dim\], got "):
        build(name)(torch.ones(4, 6), embedding)


def test_rkd_gradients_stay_small_where_samples_coincide() -> None:
    student, teacher = example()
    student = student.detach().clone()
    student[1] = student[0]
    student.requires_grad_()
    RelationalKD()(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() < 100


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("rounds", ["to -1", "below -1"])
def test_pkt_survives_samples_that_are_opposite(exclude_self: bool, rounds: str) -> None:
    _, teacher = example(3)
    direction = torch.tensor([1.0, 0, 0, 0, 0, 0])
    if rounds == "below -1":
        direction = torch.randn(6, generator=torch.Generator().manual_seed(25))
    student = (torch.stack([direction, -direction, -direction]) * 1e4).requires_grad_()
    unit = student / student.norm(dim=1, keepdim=True)
    assert (unit @ unit.T).min() <= -1 if rounds == "to -1" else (unit @ unit.T).min() < -1
    value = ProbabilisticKnowledgeTransfer(exclude_self)(student, teacher.float())
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


@each_loss
def test_autocast_changes_nothing(name: str) -> None:
    student, teacher = (x.detach().float() for x in example())
    expected = evaluate(build(name), student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(evaluate(build(name), student, teacher), expected)


@each_loss
def test_order_of_the_batch(name: str) -> None:
    student, teacher = example()
    order = torch.tensor([3, 0, 4, 2, 1])
    value = evaluate(build(name), student, teacher).item()
    shuffled = evaluate(build(name), student[order], teacher[order]).item()
    if name == "cc":  # products of neighbours: another order has other neighbours, its reverse the same
        assert shuffled != pytest.approx(value, rel=1e-3)
        assert evaluate(build(name), student.flip(0), teacher.flip(0)).item() == pytest.approx(value, rel=1e-12)
    else:
        assert shuffled == pytest.approx(value, rel=1e-10)


@each_loss
def test_a_batch_of_one_has_no_relations(name: str) -> None:
    with pytest.raises(InputError, match=r"compares the samples .* at least [23], got 1: use a larger batch"):
        evaluate(build(name), *example(1))


@each_loss
def test_a_batch_of_two(name: str) -> None:
    student, teacher = example(2)
    if name == "pkt-others":
        with pytest.raises(InputError, match="at least 3, got 2"):
            evaluate(build(name), student, teacher)
        return
    value = evaluate(build(name), student, teacher)
    assert value.item() == pytest.approx(LOSSES[name][1](student.tolist(), teacher.tolist()), rel=1e-5, abs=1e-12)
    assert (value.item() < 1e-12) == (name == "rkd")


@each_loss
def test_unequal_batches_are_refused(name: str) -> None:
    student, _ = example(5)
    _, teacher = example(4)
    sides = ([student[..., None, None]], [teacher[..., None, None]]) if name == "sp" else (student, teacher)
    with pytest.raises(InputError, match="the student's batch holds 5 samples, the teacher's 4: give both the same"):
        bare(build(name), *sides)


def test_sp_refuses_unpaired_stages() -> None:
    stage = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="got 2 of the student and 1 of the teacher"):
        SimilarityPreserving()([stage, stage], [stage])


def test_cc_refuses_unequal_widths_unless_it_projects() -> None:
    student, teacher = (x.float() for x in example(4, 5, 9))
    with pytest.raises(InputError, match=r"holds 5 numbers, the teacher's 9: give student_dim and teacher_dim"):
        CorrelationCongruence()(student, teacher)
    torch.manual_seed(0)
    projected = CorrelationCongruence(student_dim=5, teacher_dim=9, projection_dim=3)
    expected = slow_neighbours(
        projected.student_projection(student).tolist(), projected.teacher_projection(teacher).tolist()
    )
    value = projected(student.bfloat16().float(), teacher.bfloat16().float())
    assert projected(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert projected(student.bfloat16(), teacher.bfloat16()).item() == value.item()
    teacher.requires_grad_()
    projected(student, teacher).backward()
    assert teacher.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in projected.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CorrelationCongruence("rbf", gamma=0.0), "gamma must be positive, got 0.0: the usual value is 0.4"),
        (lambda: CorrelationCongruence("rbf", order=0), "order must be at least 1, got 0: .* the usual value is 2"),
        (lambda: CorrelationCongruence(student_dim=4), "both student_dim and teacher_dim, or neither, got 4 and None"),
        (lambda: ProbabilisticKnowledgeTransfer(eps=0.0), "eps must be positive, got 0.0: the usual value is 1e-07"),
        (
            lambda: RelationalKD(distance_weight=-1.0),
            "distance_weight is a weight and must not be negative, got -1.0: 0 leaves",
        ),
        (
            lambda: RelationalKD(angle_weight=-1.0),
            "angle_weight is a weight and must not be negative, got -1.0: 0 leaves",
        ),
    ],
)
def test_bad_options_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_an_unknown_variant_is_refused() -> None:
    unwrapped = inspect.unwrap(CorrelationCongruence.__init__)
    with pytest.raises(InputError, match="variant must be 'neighbours' or the paper's 'rbf', got 'gaussian'"):
        unwrapped(CorrelationCongruence(), "gaussian")
