"""CTKD with a temperature for each sample: a slow oracle, the reversed gradient, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from angularkd import Distiller, InputError
from angularkd.losses.curriculum import CurriculumTemperature, InstanceTemperature
from angularkd.models import cifar
from losses.feature_laws import bare

CLASSES = 4


def example(batch: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(batch)
    student, teacher = torch.randn(2, batch, CLASSES, dtype=torch.float64, generator=random) * 2
    return student.requires_grad_(), teacher


def built(**options: float) -> InstanceTemperature:
    torch.manual_seed(0)
    return InstanceTemperature(CLASSES, hidden=3, **options).double()


def slow(loss: InstanceTemperature, student: list[list[float]], teacher: list[list[float]]) -> float:
    """The formula, a number at a time."""
    w1, b1, w2, b2 = (value.tolist() for value in loss.parameters())
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        both = [*t, *s]
        hidden = [
            max(0.0, sum(w * x for w, x in zip(row, both, strict=True)) + b) for row, b in zip(w1, b1, strict=True)
        ]
        theta = sum(w * h for w, h in zip(w2[0], hidden, strict=True)) + b2[0]
        temperature = loss.start + loss.span / (1 + math.exp(-theta))
        sums = [sum(math.exp(z / temperature) for z in row) for row in (t, s)]
        p, q = ([math.exp(z / temperature) / total_ for z in row] for row, total_ in zip((t, s), sums, strict=True))
        total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


def test_equals_the_slow_oracle() -> None:
    loss, (student, teacher) = built(start=2.0, span=7.0), example()
    expected = slow(loss, student.tolist(), teacher.tolist())
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_temperatures_differ_and_keep_to_their_range() -> None:
    loss, (student, teacher) = built(start=2.0, span=7.0), example(batch=40)
    found = loss.temperatures(student, teacher)
    assert found.shape == (40, 1) and found.std() > 0.05
    assert found.min() > 2 and found.max() < 9


def test_the_perceptrons_gradient_is_reversed_and_the_students_is_not() -> None:
    loss, (student, teacher) = built(), example()
    loss.set_epoch(5.0, 20.0)  # lambda is 0.5
    loss(student, teacher).backward()
    bias = loss.second.bias
    slopes = []
    for side in (1e-6, -1e-6):
        with torch.no_grad():
            bias += side
            slopes.append(slow(loss, student.tolist(), teacher.tolist()))
            bias -= side
    assert bias.grad.item() == pytest.approx(-0.5 * (slopes[0] - slopes[1]) / 2e-6, rel=1e-5)
    temperature = loss.temperatures(student, teacher).detach()
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * difference.detach() / len(student))


def test_with_lambda_of_zero_it_is_hintons_loss_at_the_temperatures_of_the_start() -> None:
    loss, (student, teacher) = built(largest_lambda=0.0), example()
    loss(student, teacher).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in loss.parameters())


def test_a_perceptron_of_zeros_is_the_global_form() -> None:
    loss, (student, teacher) = built(), example()
    with torch.no_grad():
        loss.second.weight.zero_()
    torch.testing.assert_close(loss(student, teacher), CurriculumTemperature().double()(student, teacher))


def test_autocast_and_half_precision_change_nothing_but_rounding() -> None:
    loss, (student, teacher) = built().float(), example()
    wide = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student.float(), teacher.float()), wide)
    assert loss(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


def test_a_distiller_builds_it_for_the_students_classes() -> None:
    teacher, student = cifar.create("resnet8x4", 7), cifar.create("resnet8", 7)
    images = torch.rand(2, 3, 16, 16)
    distiller = Distiller(teacher, student, {"ce": 1.0, "ictkd": 1.0}, example=images)
    distiller(images, torch.arange(2)).total.backward()
    learned = dict(distiller.losses.named_parameters())
    assert learned["losses.ictkd.first.weight"].shape == (64, 14)
    assert learned["losses.ictkd.first.weight"].grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"start": 0.0}, "start must be positive"),
        ({"schedule": "sine"}, "schedule must be one of cosine, linear"),
    ],
)
def test_options_that_do_not_fit(options, message) -> None:
    with pytest.raises(InputError, match=message):
        InstanceTemperature(**{"num_classes": CLASSES, **options})


def test_logits_of_other_classes_are_refused() -> None:
    student, teacher = example()
    with pytest.raises(InputError, match="built for 4 classes, got logits of 3"):
        bare(built(), student[:, :3], teacher[:, :3])
