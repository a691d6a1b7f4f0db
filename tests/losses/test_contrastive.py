"""CRD: a slow oracle written from the paper, its negatives, its memories, and that a resumed run goes on unchanged."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.losses.contrastive import CRD
from losses.feature_laws import bare

HALVES = (torch.bfloat16, torch.float16)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 2, 1, 0])


def build(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> CRD:
    torch.manual_seed(seed)
    usual = {"num_samples": len(LABELS), "labels": LABELS, "num_negatives": 7, "projection_dim": 3}
    return CRD(5, 4, **(usual | options)).to(dtype)


def example(batch: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """The student's embedding, the teacher's, and the rows of the training split that they are of."""
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, 5, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    teacher = torch.randn(batch, 4, generator=random, dtype=torch.float64).to(dtype)
    return student, teacher, torch.randperm(len(LABELS), generator=random)[:batch]


def unit(row: list[float]) -> list[float]:
    return [x / math.hypot(*row) for x in row]


def projected(layer: nn.Linear, embedding: Tensor) -> list[list[float]]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    rows = embedding.tolist()
    return [
        unit([sum(map(math.prod, zip(w, x, strict=True))) + b for w, b in zip(weight, bias, strict=True)]) for x in rows
    ]


def slow_side(
    anchors: list[list[float]], memory: list[list[float]], candidates: list[list[int]], z: float | None
) -> tuple[float, float]:
    """One side of the loss, and Z, from equation 18 of the paper: candidates are the positive, then the negatives."""
    samples, negatives = len(memory), len(candidates[0]) - 1
    scores = [
        [math.exp(sum(map(math.prod, zip(a, memory[j], strict=True))) / 0.07) for j in own]
        for a, own in zip(anchors, candidates, strict=True)
    ]
    if z is None:
        z = samples * sum(map(sum, scores)) / (len(scores) * (negatives + 1))
    noise = negatives / samples
    total = 0.0
    for first, *others in scores:
        total -= math.log(first / z / (first / z + noise))
        total -= sum(math.log(noise / (other / z + noise)) for other in others)
    return total / len(anchors), z


def slow(loss: CRD, student: Tensor, teacher: Tensor, rows: Tensor, seed: int, z: tuple[float, float] | None) -> Any:
    torch.manual_seed(seed)
    drawn = loss.draw_negatives(rows).tolist()
    candidates = [[row, *others] for row, others in zip(rows.tolist(), drawn, strict=True)]
    sides = [
        (projected(loss.student_projection, student), loss.teacher_memory.tolist()),
        (projected(loss.teacher_projection, teacher), loss.student_memory.tolist()),
    ]
    results = [slow_side(*side, candidates, None if z is None else z[i]) for i, side in enumerate(sides)]
    return sum(value for value, _ in results), tuple(z for _, z in results)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["other-classes", "other-samples"])
def test_equals_the_paper_over_several_batches(labels: Tensor | None) -> None:
    loss, z = build(labels=labels), None
    for step in range(3):
        student, teacher, rows = example(batch=step + 2, seed=step)
        expected, z = slow(loss, student, teacher, rows, seed=step, z=z)
        torch.manual_seed(step)
        assert loss(student, teacher, rows).item() == pytest.approx(expected, rel=1e-10)
        assert loss.student_log_z.exp().item() == pytest.approx(z[0], rel=1e-10)
        assert loss.teacher_log_z.exp().item() == pytest.approx(z[1], rel=1e-10)


def test_rows_of_the_batch_move_and_the_others_stay() -> None:
    loss = build(momentum=0.25)
    student, teacher, rows = example()
    before = {"student": loss.student_memory.tolist(), "teacher": loss.teacher_memory.tolist()}
    loss(student, teacher, rows)
    sides = {"student": (loss.student_projection, student), "teacher": (loss.teacher_projection, teacher)}
    for side, (layer, embedding) in sides.items():
        expected = before[side]
        for row, anchor in zip(rows.tolist(), projected(layer, embedding), strict=True):
            expected[row] = unit([0.25 * old + 0.75 * new for old, new in zip(expected[row], anchor, strict=True)])
        assert torch.allclose(getattr(loss, f"{side}_memory"), torch.tensor(expected, dtype=torch.float64))


def test_negatives_are_all_of_the_other_classes_alike() -> None:
    loss = build(num_negatives=20_000)
    rows = torch.arange(len(LABELS))
    drawn = loss.draw_negatives(rows)
    for row in range(len(LABELS)):
        counts = drawn[row].bincount(minlength=len(LABELS))
        others = LABELS[row] != LABELS
        assert counts[~others].sum() == 0
        expected = 20_000 / others.sum()
        assert (counts[others] - expected).abs().max() < 5 * expected.sqrt()


def test_negatives_without_labels_are_all_other_samples_alike() -> None:
    loss = build(labels=None, num_negatives=20_000)
    drawn = loss.draw_negatives(torch.tensor([0, 4, 10]))
    for row, own in zip((0, 4, 10), drawn, strict=True):
        counts = own.bincount(minlength=11)
        assert counts[row] == 0
        assert (counts[torch.arange(11) != row] - 2000).abs().max() < 5 * math.sqrt(2000)


def test_labels_may_have_gaps() -> None:
    same, other = build(labels=LABELS), build(labels=LABELS * 10 + 7)
    torch.testing.assert_close(same.state_dict(), other.state_dict(), equal_nan=True)


def test_gradients() -> None:
    loss = build().eval()
    student, teacher, rows = example()

    def value(x: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(0)
        return loss(x, teacher, rows)

    # Z of the first batch counts as a constant
    loss.student_log_z.fill_(3.0)
    loss.teacher_log_z.fill_(4.0)
    assert torch.autograd.gradcheck(value, (student, *loss.parameters()))
    teacher.requires_grad_()
    loss(student, teacher, rows).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in loss.parameters())


def test_the_first_z_is_a_constant_to_the_gradient() -> None:
    student, teacher, rows = example()
    fresh = build()
    torch.manual_seed(1)
    fresh(student, teacher, rows).backward()
    later = build()
    later.student_log_z.copy_(fresh.student_log_z)
    later.teacher_log_z.copy_(fresh.teacher_log_z)
    again = student.detach().clone().requires_grad_()
    torch.manual_seed(1)
    later(again, teacher, rows).backward()
    assert student.grad is not None and torch.equal(student.grad, again.grad)


def test_evaluation_leaves_the_memories_as_they_are() -> None:
    loss = build().eval()
    before = copy.deepcopy(loss.state_dict())
    assert loss(*example()) > 0
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def train(loss: CRD, optimiser: torch.optim.Optimizer, steps: range) -> list[float]:
    values = []
    for step in steps:
        optimiser.zero_grad()
        value = loss(*example(batch=4, seed=step))
        value.backward()
        optimiser.step()
        values.append(value.item())
    return values


def with_optimiser(loss: CRD) -> tuple[CRD, torch.optim.Optimizer]:
    return loss, torch.optim.SGD(loss.parameters(), lr=0.05, momentum=0.9)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [train(*with_optimiser(build(dtype=torch.float32)), range(5)) for _ in range(2)]
    assert runs[0] == runs[1]
    other = train(*with_optimiser(build(seed=1, dtype=torch.float32)), range(5))
    assert other != runs[0]


def test_a_resumed_run_is_an_uninterrupted_one() -> None:
    loss, optimiser = with_optimiser(build(dtype=torch.float32))
    train(loss, optimiser, range(3))
    stopped = copy.deepcopy((loss.state_dict(), optimiser.state_dict())), torch.get_rng_state()
    expected = train(loss, optimiser, range(3, 6))
    resumed, resumed_optimiser = with_optimiser(build(seed=99, labels=LABELS.roll(1), dtype=torch.float32))
    (weights, moments), random = stopped
    resumed.load_state_dict(weights)
    resumed_optimiser.load_state_dict(moments)
    torch.set_rng_state(random)
    assert train(resumed, resumed_optimiser, range(3, 6)) == expected
    torch.testing.assert_close(resumed.state_dict(), loss.state_dict(), rtol=0, atol=0)


def test_training_brings_a_sample_s_embeddings_together() -> None:
    torch.manual_seed(0)
    loss = build(dtype=torch.float32, num_negatives=16, projection_dim=8)
    students, teachers = torch.randn(11, 5), torch.randn(11, 4)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
    values = []
    for _ in range(60):
        optimiser.zero_grad()
        value = loss(students, teachers, torch.arange(11))
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert sum(values[-5:]) < 0.7 * sum(values[:5])
    similarity = loss.student_memory @ loss.teacher_memory.T
    other = LABELS.unsqueeze(0) != LABELS.unsqueeze(1)
    assert similarity.diagonal().mean() > similarity[other].mean() + 0.5
    loss.eval()
    matched = loss(students, teachers, torch.arange(11))
    assert 0 < matched < loss(students, teachers.flip(0), torch.arange(11))


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["usual", "large"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_every_precision_is_finite(dtype: torch.dtype, scale: float) -> None:
    student, teacher, rows = example(dtype=torch.float64)
    student = (student.detach() * scale).to(dtype).requires_grad_()
    teacher = (teacher * scale).to(dtype)
    module_dtype = torch.float32 if dtype in HALVES else dtype
    loss = build(dtype=module_dtype, temperature=0.01)
    for _ in range(2):
        value = loss(student, teacher, rows)
        value.backward()
        assert value.isfinite() and value.dtype == module_dtype
    assert student.grad is not None and student.grad.isfinite().all()
    assert loss.student_memory.isfinite().all() and loss.teacher_memory.isfinite().all()


def test_a_module_in_half_precision_still_computes_in_single() -> None:
    loss = build(dtype=torch.bfloat16)
    student, teacher, rows = example(dtype=torch.bfloat16)
    value = loss(student, teacher, rows)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert loss.student_memory.dtype == torch.bfloat16


def test_autocast_changes_nothing() -> None:
    values = []
    for enabled in (False, True):
        loss = build(dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(loss(*example(dtype=torch.float32)))
    assert torch.equal(*values)


def test_embeddings_of_zeros_are_survived() -> None:
    loss = build()
    for layer in (loss.student_projection, loss.teacher_projection):
        nn.init.zeros_(layer.bias)
    student = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    loss(student, torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 1])).backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_order_of_the_batch_does_not_matter_where_the_negatives_do_not_change() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])  # one other sample for each of class 0: chance has no choice
    student, teacher, _ = example(batch=3)
    rows, order = torch.tensor([0, 2, 3]), torch.tensor([2, 0, 1])
    first, second = (build(labels=labels, num_samples=5) for _ in range(2))
    value = first(student, teacher, rows)
    assert second(student[order], teacher[order], rows[order]).item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(first.state_dict(), second.state_dict())


def test_a_batch_of_one() -> None:
    loss = build()
    student, teacher, rows = example(batch=1)
    loss(student, teacher, rows.int()).backward()
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 1, "labels": None}, "num_samples must be at least 2, got 1: CRD tells the samples"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0: the usual value is 16384"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0: the usual value is 0.07"),
        ({"momentum": 1.0}, r"momentum must lie in 0..1 .* got 1.0: the usual value is 0.5"),
        ({"momentum": -0.1}, r"momentum must lie in 0..1 .* got -0.1: the usual value is 0.5"),
        ({"labels": torch.zeros(11, dtype=torch.long)}, "all labels are of one: leave labels out"),
        ({"num_samples": 12}, "a label for each of 12 samples, got 11: give the training split's"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**options)


@pytest.mark.parametrize(
    "wrong", [lambda s, t, i: (s[:2], t, i), lambda s, t, i: (s, t, i[:2])], ids=["student", "rows"]
)
def test_unequal_batches_are_refused(wrong: Callable[..., tuple[Tensor, ...]]) -> None:
    with pytest.raises(InputError, match="one of each for every sample"):
        bare(build(), *wrong(*example()))
