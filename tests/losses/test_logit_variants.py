"""DeiT's hard and token distillation, multi-level KD, curriculum temperature, weighted soft labels, WKD: oracles and laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.losses.curriculum import CurriculumTemperature
from angularkd.losses.deit import HardDistillation, TokenDistillation
from angularkd.losses.multilevel import MultiLevel
from angularkd.losses.wasserstein import WassersteinLogits
from angularkd.losses.weighted import WeightedSoftLabels
from losses.feature_laws import PRECISIONS, assert_refused, bare

Rows = list[list[float]]
CLASSES = 5
HEAD = [[1.0, 0.2, -0.3], [0.9, 0.3, -0.2], [-0.5, 1.0, 0.4], [0.0, 0.0, 0.0], [0.1, -2.0, 0.7]]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_hard(student: Rows, teacher: Rows, labels: list[int], label_smoothing: float = 0.0) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        label = max(range(len(t)), key=lambda k: t[k])
        for k, p in enumerate(softmax(s)):
            target = (1 - label_smoothing) * (k == label) + label_smoothing / len(t)
            total -= target * math.log(p)
    return total / len(student)


def slow_soft_token(student: Rows, teacher: Rows, labels: list[int], soft: bool, temperature: float) -> float:
    pairs = zip(student, teacher, strict=True)
    return (
        temperature**2
        * sum(divergence(softmax(t, temperature), softmax(s, temperature)) for s, t in pairs)
        / len(student)
    )


def slow_multilevel(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    temperatures: list[float],
    instance_weight: float,
    batch_weight: float,
    class_weight: float,
) -> float:
    total = 0.0
    n, c = len(student), len(student[0])
    for temperature in temperatures:
        s, t = ([softmax(row, temperature) for row in rows] for rows in (student, teacher))
        total += instance_weight * temperature**2 * sum(divergence(b, a) for a, b in zip(s, t, strict=True)) / n
        for i in range(n):
            for j in range(n):
                own, other = (sum(rows[i][k] * rows[j][k] for k in range(c)) for rows in (s, t))
                total += batch_weight * (own - other) ** 2 / n
        for k in range(c):
            for m in range(c):
                own, other = (sum(rows[i][k] * rows[i][m] for i in range(n)) for rows in (s, t))
                total += class_weight * (own - other) ** 2 / c
    return total


def slow_curriculum(student: Rows, teacher: Rows, labels: list[int], start: float, span: float) -> float:
    temperature = start + span / (1 + math.exp(-1))
    return slow_soft_token(student, teacher, labels, True, temperature)


def slow_weighted(student: Rows, teacher: Rows, labels: list[int], temperature: float) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        weight = 1 - math.exp(math.log(softmax(s)[y]) / (-math.log(softmax(t)[y]) + 1e-7))
        q, p = softmax(t, temperature), softmax(s, temperature)
        total -= weight * sum(a * math.log(b) for a, b in zip(q, p, strict=True))
    return temperature**2 * total / len(student)


def slow_wasserstein(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    gamma: float,
    temperature: float,
    sharpness: float,
    regularisation: float,
    iterations: int,
) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        total -= softmax(t)[y] * math.log(softmax(s)[y])
        rest = [k for k in range(len(s)) if k != y]
        a, b = (softmax([row[k] for k in rest], temperature) for row in (s, t))
        cost = [[slow_cost(HEAD[k], HEAD[m], sharpness, k == m) for m in rest] for k in rest]
        kernel = [[math.exp(-c / regularisation) for c in row] for row in cost]
        n = range(len(rest))
        u, v = [1 / len(rest)] * len(rest), [0.0] * len(rest)
        for _ in range(iterations):
            v = [b[j] / (sum(kernel[i][j] * u[i] for i in n) + 1e-8) for j in n]
            u = [a[i] / (sum(kernel[i][j] * v[j] for j in n) + 1e-8) for i in n]
        total += gamma * sum(u[i] * kernel[i][j] * v[j] * cost[i][j] for i in n for j in n)
    return total / len(student)


def slow_cost(one: list[float], other: list[float], sharpness: float, same: bool) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    cosine = sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0
    if same and lengths:
        cosine = 1.0
    cost = 1 - math.exp(-sharpness * (1 - cosine)) if sharpness else 1 - cosine
    return max(cost, 0.0) + 1e-8


def wasserstein(**options: Any) -> WassersteinLogits:
    return WassersteinLogits(torch.tensor(HEAD, dtype=torch.float64), **options)


CASES: dict[str, tuple[Callable[..., nn.Module], Callable[..., float], dict[str, Any]]] = {
    "hard": (HardDistillation, slow_hard, {}),
    "hard smoothed": (HardDistillation, slow_hard, {"label_smoothing": 0.1}),
    "token": (TokenDistillation, slow_hard, {}),
    "token soft": (TokenDistillation, slow_soft_token, {"soft": True, "temperature": 2.5}),
    "mlkd": (
        MultiLevel,
        slow_multilevel,
        {"temperatures": [1.5, 4.0], "instance_weight": 0.7, "batch_weight": 2.0, "class_weight": 3.0},
    ),
    "ctkd": (CurriculumTemperature, slow_curriculum, {"start": 2.0, "span": 7.0}),
    "wsld": (WeightedSoftLabels, slow_weighted, {"temperature": 2.5}),
    "wkd": (
        wasserstein,
        slow_wasserstein,
        {"gamma": 40.0, "temperature": 2.0, "sharpness": 1.5, "regularisation": 0.1, "iterations": 4},
    ),
    "wkd plain": (
        wasserstein,
        slow_wasserstein,
        {"gamma": 3.0, "temperature": 1.0, "sharpness": 0.0, "regularisation": 0.3, "iterations": 1},
    ),
}
ZERO = ("token soft", "mlkd", "ctkd")
each_case = pytest.mark.parametrize("name", CASES)


def build(name: str) -> nn.Module:
    factory, _, options = CASES[name]
    return factory(**options)


def evaluate(loss: nn.Module, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    with_labels = isinstance(loss, WeightedSoftLabels | WassersteinLogits)
    return loss(student, teacher, labels) if with_labels else loss(student, teacher)


def example(dtype: torch.dtype = torch.float64, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(batch)
    student, teacher = torch.randn(2, batch, CLASSES, dtype=torch.float64, generator=random) * 2
    return student.to(dtype).requires_grad_(), teacher.to(dtype), torch.arange(batch) % CLASSES


@each_case
def test_equal_the_slow_oracle(name: str) -> None:
    _, slow, options = CASES[name]
    student, teacher, labels = example()
    arguments = {} if name == "token" else options
    expected = slow(student.tolist(), teacher.tolist(), labels.tolist(), **arguments)
    value = evaluate(build(name).double(), student, teacher, labels)
    assert value.item() == pytest.approx(expected, rel=1e-9)


@each_case
def test_gradients(name: str) -> None:
    loss, (student, teacher, labels) = build(name).double(), example()
    teacher.requires_grad_()
    if name != "wsld":  # whose weights depend on the student, without a gradient
        assert torch.autograd.gradcheck(lambda leaf: evaluate(loss, leaf, teacher.detach(), labels), (student,))
    evaluate(loss, student, teacher, labels).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0 and teacher.grad is None


def test_weights_of_soft_labels_have_no_gradient() -> None:
    student, teacher, labels = example()
    log_p, log_t = student.detach().log_softmax(1), teacher.log_softmax(1)
    ratio = log_p.gather(1, labels[:, None]) / (log_t.gather(1, labels[:, None]) - 1e-7)
    weights = 1 - (-ratio).exp()
    expected = weights * 2.5 * ((student / 2.5).softmax(1) - (teacher / 2.5).softmax(1)) / len(student)
    gradient = torch.autograd.grad(evaluate(build("wsld"), student, teacher, labels), student)[0]
    torch.testing.assert_close(gradient, expected)


@each_case
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_every_precision(name: str, dtype: torch.dtype) -> None:
    loss = build(name)
    student, teacher, labels = example(dtype)
    student = (40 * student.detach()).requires_grad_()
    value = evaluate(loss, student, 40 * teacher, labels)
    wide = torch.promote_types(dtype, torch.float32)
    assert value.dtype == wide and value.isfinite()
    expected = evaluate(loss, student.detach().to(wide), (40 * teacher).to(wide), labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    gradient = torch.autograd.grad(1e-6 * value, student)[0]
    assert gradient.dtype == dtype and gradient.isfinite().all()
    assert evaluate(loss.bfloat16(), student, teacher, labels).isfinite()


@each_case
def test_autocast_changes_nothing(name: str) -> None:
    loss, (student, teacher, labels) = build(name), example(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = evaluate(loss, student, teacher, labels)
    assert torch.equal(value, evaluate(loss, student, teacher, labels))


@each_case
def test_the_order_of_samples_does_not_matter(name: str) -> None:
    loss, (student, teacher, labels) = build(name).double(), example(batch=6)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    value = evaluate(loss, student, teacher, labels)
    torch.testing.assert_close(evaluate(loss, student[order], teacher[order], labels[order]), value, rtol=1e-12, atol=0)
    assert not torch.isclose(evaluate(loss, student[order], teacher, labels), value)


@pytest.mark.parametrize("name", ZERO)
def test_equal_predictions_give_zero(name: str) -> None:
    _, teacher, labels = example()
    assert evaluate(build(name), teacher, teacher, labels).item() == pytest.approx(0, abs=1e-12)


def test_transport_prefers_classes_that_are_alike() -> None:
    """Mass on class 1 instead of class 0, whose weights nearly agree, costs less than on class 4; the target, 2, costs nothing."""
    loss = wasserstein(temperature=1.0, regularisation=0.02, iterations=50)
    labels = torch.tensor([2])
    teacher = torch.tensor([[9.0, 0.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    near = torch.tensor([[0.0, 9.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    far = torch.tensor([[0.0, 0.0, 3.0, 0.0, 9.0]], dtype=torch.float64)
    same, close, distant = (loss(side, teacher, labels).item() for side in (teacher, near, far))
    assert same < close < distant / 2


def test_the_heads_weight_is_frozen_and_stays_out_of_checkpoints() -> None:
    loss = wasserstein()
    assert not list(loss.parameters()) and not loss.state_dict() and "cost" in dict(loss.named_buffers())


# Curriculum temperature


def test_the_temperatures_gradient_is_reversed() -> None:
    student, teacher, _ = example()
    loss = CurriculumTemperature().double()
    loss.set_epoch(5.0, 20.0)  # lambda is 0.5

    def value(theta: float) -> float:
        temperature = 1 + 20 / (1 + math.exp(-theta))
        return slow_soft_token(student.tolist(), teacher.tolist(), [], True, temperature)

    slope = (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5
    loss(student, teacher).backward()
    assert loss.theta.grad.item() == pytest.approx(-0.5 * slope, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "epoch", "expected"),
    [
        ("cosine", 0.0, 0.0),
        ("cosine", 2.5, 2 * (1 - math.cos(math.pi / 4)) / 2),
        ("cosine", 10.0, 2.0),
        ("cosine", 17.0, 2.0),
        ("linear", 2.5, 0.5),
        ("linear", 30.0, 2.0),
    ],
)
def test_lambda_follows_its_schedule(schedule: str, epoch: float, expected: float) -> None:
    loss = CurriculumTemperature(largest_lambda=2, schedule=schedule)
    assert loss.reversal == 2, "it is whole until epochs are given"
    loss.set_epoch(epoch, 40.0)
    assert loss.reversal.item() == pytest.approx(expected)


def test_a_lambda_that_changes_before_the_gradient_is_asked_for() -> None:
    student, teacher, _ = example()
    loss = CurriculumTemperature().double()
    value = loss(student, teacher)
    loss.set_epoch(0.0, 20.0)
    value.backward()
    assert loss.theta.grad != 0


def test_the_temperature_is_saved_and_lambda_is_not() -> None:
    assert set(CurriculumTemperature().state_dict()) == {"theta"}


# What does not fit


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HardDistillation(label_smoothing=1.0), "label_smoothing must lie in 0..1"),
        (lambda: TokenDistillation(temperature=0.0), "temperature must be positive"),
        (lambda: MultiLevel([]), "temperatures is empty"),
        (lambda: MultiLevel([2.0, 0.0]), "temperatures must be positive, got 0.0"),
        (lambda: MultiLevel(batch_weight=-1.0), "batch_weight is a weight"),
        (lambda: CurriculumTemperature(start=0.0), "start must be positive"),
        (lambda: CurriculumTemperature(span=-1.0), "span is a weight"),
        (lambda: CurriculumTemperature(curriculum_epochs=0.0), "curriculum_epochs must be positive"),
        (lambda: CurriculumTemperature(largest_lambda=-1.0), "largest_lambda is a weight"),
        (lambda: CurriculumTemperature(schedule="sine"), "schedule must be one of cosine, linear, got 'sine'"),
        (lambda: WeightedSoftLabels(temperature=-1.0), "temperature must be positive"),
        (lambda: WassersteinLogits(None), "got None: WKD takes the cost between classes from the teacher's"),
        (lambda: bare_wasserstein(torch.ones(5)), "head_weight must be [classes, dim], got [5]"),
        (lambda: wasserstein(gamma=-1.0), "gamma is a weight"),
        (lambda: wasserstein(temperature=0.0), "temperature must be positive"),
        (lambda: wasserstein(sharpness=-1.0), "sharpness is a weight"),
        (lambda: wasserstein(regularisation=0.0), "regularisation must be positive"),
        (lambda: wasserstein(iterations=0), "iterations must be at least 1"),
        (
            lambda: wasserstein()(*(torch.ones(2, 4),) * 2, torch.tensor([0, 1])),
            "WKD was built for 5 classes, got logits of 4",
        ),
    ],
)
def test_options_that_do_not_fit(call: Callable[[], Any], message: str) -> None:
    assert_refused(call, message)


def bare_wasserstein(weight: Tensor) -> nn.Module:
    """Build it past the check of its signature's shapes."""
    loss = WassersteinLogits.__new__(WassersteinLogits)
    getattr(WassersteinLogits.__init__, "__wrapped__", WassersteinLogits.__init__)(loss, weight)
    return loss


@each_case
def test_logits_that_do_not_fit(name: str) -> None:
    loss, (student, teacher, labels) = build(name), example()
    arguments = (labels,) if isinstance(loss, WeightedSoftLabels | WassersteinLogits) else ()
    with pytest.raises(InputError, match="give both the same samples and classes"):
        bare(loss, student, teacher[:, :-1], *arguments)
    with pytest.raises(InputError, match="give both the same samples and classes"):
        bare(loss, student, teacher[:2], *arguments)


@pytest.mark.parametrize("name", ["wsld", "wkd"])
def test_soft_labels_are_refused(name: str) -> None:
    student, teacher, _ = example()
    with pytest.raises(InputError, match="needs one target class a sample"):
        evaluate(build(name), student, teacher, teacher.softmax(dim=1))
