"""Losses on logits: golden values, slow oracles written from the papers, gradients, and the edges of their inputs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.losses.decoupled import NKD, DecoupledKD
from angularkd.losses.logit import DIST, CrossEntropy, HintonKD, standard_scores
from losses.feature_laws import bare

Rows = list[list[float]]
HALVES = (torch.bfloat16, torch.float16)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(z) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def without(row: list[float], index: int) -> list[float]:
    return row[:index] + row[index + 1 :]


def scored(row: list[float]) -> list[float]:
    return [(z - statistics.mean(row)) / (statistics.stdev(row) + 1e-7) for z in row]


def slow_hinton(student: Rows, teacher: Rows, labels: list[int], temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total += divergence(softmax([z / temperature for z in t]), softmax([z / temperature for z in s]))
    return temperature**2 * total / len(student)


def slow_decoupled(
    student: Rows, teacher: Rows, labels: list[int], alpha: float, beta: float, temperature: float
) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        p, q = softmax([z / temperature for z in t]), softmax([z / temperature for z in s])
        rest_p, rest_q = without(p, y), without(q, y)
        target = divergence([p[y], sum(rest_p)], [q[y], sum(rest_q)])
        rest = divergence([a / sum(rest_p) for a in rest_p], [b / sum(rest_q) for b in rest_q])
        total += alpha * target + beta * rest
    return temperature**2 * total / len(student)


def slow_normalised(student: Rows, teacher: Rows, labels: list[int], gamma: float, temperature: float) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        total -= softmax(t)[y] * math.log(softmax(s)[y])
        rest_t = softmax([z / temperature for z in without(t, y)])
        rest_s = softmax([z / temperature for z in without(s, y)])
        total -= gamma * temperature**2 * sum(a * math.log(b) for a, b in zip(rest_t, rest_s, strict=True))
    return total / len(student)


def pearson(a: list[float], b: list[float]) -> float:
    a, b = [x - statistics.mean(a) for x in a], [x - statistics.mean(b) for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b) + 1e-8)


def slow_dist(student: Rows, teacher: Rows, labels: list[int], beta: float, gamma: float, temperature: float) -> float:
    s, t = ([softmax([z / temperature for z in row]) for row in rows] for rows in (student, teacher))
    inter = 1 - statistics.mean(pearson(a, b) for a, b in zip(s, t, strict=True))
    columns = zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)
    intra = 1 - statistics.mean(pearson(list(a), list(b)) for a, b in columns)
    return temperature**2 * (beta * inter + gamma * intra)


LOSSES: dict[str, tuple[Callable[..., nn.Module], Callable[..., float], dict[str, float]]] = {
    "kd": (HintonKD, slow_hinton, {"temperature": 3.0}),
    "dkd": (DecoupledKD, slow_decoupled, {"alpha": 0.7, "beta": 5.0, "temperature": 2.0}),
    "nkd": (NKD, slow_normalised, {"gamma": 1.5, "temperature": 2.0}),
    "dist": (DIST, slow_dist, {"beta": 2.0, "gamma": 0.5, "temperature": 1.5}),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def build(name: str, **options: Any) -> nn.Module:
    factory, _, usual = LOSSES[name]
    return factory(**usual, **options)


def evaluate(loss: nn.Module, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    with_labels = isinstance(loss, DecoupledKD | NKD)
    return loss(student, teacher, labels) if with_labels else loss(student, teacher)


def example(batch: int = 5, classes: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """The student's logits, the teacher's, and labels."""
    random = torch.Generator().manual_seed(batch * 100 + classes)
    student, teacher = torch.randn(2, batch, classes, dtype=torch.float64, generator=random) * 2
    labels = torch.randint(classes, (batch,), generator=random)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), labels


def soft_labels(batch: int = 5, classes: int = 7) -> Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.rand(batch, classes, dtype=torch.float64, generator=random).softmax(dim=1)


def test_kd_is_golden(golden: Any) -> None:
    student = golden["student_logits"]
    golden.check("kd.T4", HintonKD(temperature=4.0)(student, golden["teacher_logits"]), student)


def test_dkd_is_golden(golden: Any) -> None:
    student = golden["student_logits"]
    loss = DecoupledKD(alpha=1.0, beta=8.0, temperature=4.0)(student, golden["teacher_logits"], golden["labels"])
    golden.check("dkd.a1.b8.T4", loss, student)


@each_loss
@pytest.mark.parametrize("size", [(2, 2), (3, 10), (7, 5), (4, 13)])
def test_equals_the_paper_sample_by_sample(name: str, size: tuple[int, int]) -> None:
    student, teacher, labels = example(*size)
    _, slow, options = LOSSES[name]
    expected = slow(student.tolist(), teacher.tolist(), labels.tolist(), **options)
    assert evaluate(build(name), student, teacher, labels).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_standardised_logits_are_scored_before_the_temperature(name: str) -> None:
    student, teacher, labels = example()
    _, slow, options = LOSSES[name]
    expected = slow(*([scored(row) for row in x.tolist()] for x in (student, teacher)), labels.tolist(), **options)
    loss = build(name, standardise=True)
    value = evaluate(loss, student, teacher, labels)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    moved = student * torch.linspace(0.5, 4, 5).unsqueeze(1) + torch.arange(5).unsqueeze(1)
    assert evaluate(loss, moved, teacher, labels).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_that_are_all_equal_standardise_to_zero(dtype: torch.dtype) -> None:
    logits = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    assert torch.equal(standard_scores(logits), torch.zeros(3, 4, dtype=dtype))
    HintonKD(standardise=True)(logits, example(3, 4, dtype)[1]).backward()
    assert logits.grad is not None
    assert 0 < logits.grad.abs().max() < 10


STANDARDISED = [(name, {"standardise": True}) for name in ("kd", "dkd")]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in LOSSES), *STANDARDISED])
def test_gradients(name: str, options: dict[str, bool]) -> None:
    student, teacher, labels = example()
    loss = build(name, **options)
    assert torch.autograd.gradcheck(lambda x: evaluate(loss, x, teacher, labels), student)
    teacher.requires_grad_()
    evaluate(loss, student, teacher, labels).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0


@each_loss
def test_the_teachers_predictions_cost_least(name: str) -> None:
    _, teacher, labels = example()
    if name == "nkd":  # a cross-entropy: least where the student is sure of the target and right about the rest
        student = teacher + 100 * nn.functional.one_hot(labels, 7)
        rest = [
            softmax([z / 2.0 for z in without(t, y)]) for t, y in zip(teacher.tolist(), labels.tolist(), strict=True)
        ]
        least = 1.5 * 2.0**2 * statistics.mean(-sum(p * math.log(p) for p in row) for row in rest)
    else:
        student, least = teacher + 3, 0.0  # logits are the same up to a constant
    loss = build(name)
    assert evaluate(loss, student, teacher, labels).item() == pytest.approx(
        least, abs=1e-5 if name == "dist" else 1e-12
    )
    for seed in range(5):
        other = student + 0.1 * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert evaluate(loss, other, teacher, labels) > least


@each_loss
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["usual", "large"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_every_precision_is_finite(name: str, scale: float, dtype: torch.dtype) -> None:
    student, teacher, labels = example(dtype=torch.float64)
    student = (student.detach() * scale).to(dtype).requires_grad_()
    value = evaluate(build(name), student, (teacher * scale).to(dtype), labels)
    value.backward()
    assert value.isfinite() and value.dtype == (torch.float32 if dtype in HALVES else dtype)
    assert student.grad is not None and student.grad.isfinite().all()
    if dtype in HALVES:  # widened first: nothing is lost but the inputs' own digits
        wide = evaluate(build(name), student.detach().float(), (teacher * scale).to(dtype).float(), labels)
        assert torch.equal(value, wide)


@each_loss
def test_autocast_changes_nothing(name: str) -> None:
    student, teacher, labels = example(dtype=torch.float32)
    expected = evaluate(build(name), student, teacher, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(evaluate(build(name), student, teacher, labels), expected)


@each_loss
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    student, teacher, labels = example()
    order = torch.tensor([3, 0, 4, 2, 1])
    expected = evaluate(build(name), student, teacher, labels)
    assert evaluate(build(name), student[order], teacher[order], labels[order]).item() == pytest.approx(
        expected.item(), rel=1e-12
    )


@each_loss
def test_a_batch_of_one(name: str) -> None:
    student, teacher, labels = example(1, 6)
    if name == "dist":
        with pytest.raises(InputError, match="at least 2, got 1: use a larger batch"):
            evaluate(build(name), student, teacher, labels)
    else:
        evaluate(build(name), student, teacher, labels).backward()
        assert student.grad is not None and student.grad.isfinite().all()


def test_decoupled_parts_add_up_to_hintons() -> None:
    student, teacher, labels = example(1)
    confidence = torch.softmax(teacher / 4, dim=1)[0, labels[0]].item()
    decoupled = DecoupledKD(alpha=1.0, beta=1 - confidence, temperature=4.0)(student, teacher, labels)
    assert decoupled.item() == pytest.approx(HintonKD(temperature=4.0)(student, teacher).item(), rel=1e-12)


def test_decoupled_survives_a_student_that_is_sure() -> None:
    student = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    loss = DecoupledKD(alpha=1.0, beta=0.0, temperature=1.0)(student, torch.zeros(1, 3), torch.tensor([0]))
    # KL of (1/3, 2/3) from (1, 2 exp(-1000))
    assert loss.item() == pytest.approx(2 / 3 * 1000 - math.log(3), rel=1e-6)
    loss.backward()
    assert torch.allclose(student.grad, torch.tensor([[2 / 3, -1 / 3, -1 / 3]]), atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_takes_both_kinds_of_labels(smoothing: float) -> None:
    student, _, labels = example()
    loss = CrossEntropy(smoothing)
    one_hot = nn.functional.one_hot(labels, 7).double()
    assert loss(student, one_hot).item() == pytest.approx(loss(student, labels).item(), rel=1e-12)
    assert loss(student, labels.int()).item() == loss(student, labels).item()
    for target in (one_hot, soft_labels()):
        expected = 0.0
        for s, y in zip(student.tolist(), target.tolist(), strict=True):
            smoothed = [(1 - smoothing) * p + smoothing / 7 for p in y]
            expected -= sum(p * math.log(q) for p, q in zip(smoothed, softmax(s), strict=True)) / 5
        assert loss(student, target).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_cross_entropy_at_every_precision(dtype: torch.dtype, soft: bool) -> None:
    student, _, labels = example()
    student = (student.detach() * 1e4).to(dtype).requires_grad_()
    value = CrossEntropy(0.1)(student, soft_labels() if soft else labels)
    value.backward()
    assert value.isfinite() and value.dtype == (torch.float32 if dtype in HALVES else dtype)
    assert student.grad is not None and student.grad.isfinite().all()


def test_cross_entropy_gradients() -> None:
    student, _, labels = example()
    for target in (labels, soft_labels()):
        assert torch.autograd.gradcheck(lambda x, y=target: CrossEntropy(0.1)(x, y), student)
    single, _, label = example(1)
    assert torch.autograd.gradcheck(lambda x: CrossEntropy()(x, label), single)


def test_labels_of_neither_kind_are_refused() -> None:
    student, _, labels = example()
    for wrong in (nn.functional.one_hot(labels, 7), labels.double()):
        with pytest.raises(InputError, match="convert one-hot vectors to a float type"):
            bare(CrossEntropy(), student, wrong)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(5, 8), (5, 1), (4, 7)], ids=str)
def test_logits_of_unequal_shapes_are_refused(name: str, shape: tuple[int, int]) -> None:
    student, _, labels = example()
    inputs = [student, torch.zeros(shape, dtype=torch.float64), *([labels] if name in ("dkd", "nkd") else [])]
    with pytest.raises(InputError, match=r"the student's logits are \[5, 7\] and the teacher's \["):
        bare(build(name), *inputs)


@pytest.mark.parametrize("loss", [DecoupledKD(), NKD()], ids=["DKD", "NKD"])
def test_soft_labels_have_no_target_class(loss: nn.Module) -> None:
    student, teacher, _ = example()
    with pytest.raises(InputError, match=r"needs one target class a sample and cannot use soft labels.*`cutmix`"):
        loss(student, teacher, soft_labels())


@pytest.mark.parametrize("loss", [DecoupledKD(), NKD(), DIST(), HintonKD(standardise=True)])
def test_one_class_is_refused(loss: nn.Module) -> None:
    with pytest.raises(InputError, match="at least 2, got 1"):
        evaluate(loss, torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HintonKD(temperature=0.0), "temperature must be positive, got 0.0: the usual value is 4"),
        (lambda: DecoupledKD(temperature=-1.0), "temperature must be positive, got -1.0: the usual value is 4"),
        (lambda: DecoupledKD(alpha=-1.0), "alpha is a weight and must not be negative, got -1.0"),
        (lambda: DecoupledKD(beta=float("nan")), "beta is a weight and must not be negative, got nan"),
        (lambda: NKD(temperature=0.0), "temperature must be positive, got 0.0: the usual value is 1"),
        (lambda: NKD(gamma=-0.5), "gamma is a weight and must not be negative, got -0.5"),
        (lambda: DIST(temperature=0.0), "temperature must be positive, got 0.0: the usual value is 1"),
        (lambda: DIST(beta=-2.0), "beta is a weight and must not be negative, got -2.0"),
        (lambda: DIST(eps=0.0), "eps must be positive, got 0.0: the usual value is 1e-08"),
        (lambda: CrossEntropy(1.0), "label_smoothing must lie in 0..1"),
    ],
)
def test_bad_options_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
