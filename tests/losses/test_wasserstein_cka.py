"""WKD's cost by the CKA of the teacher's logits of classes: a slow oracle, and where the logits come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from angularkd import Distiller, InputError
from angularkd.losses.wasserstein import WassersteinCKA, WassersteinLogits, cka_distances
from angularkd.models import cifar
from helpers import distillation_job

Matrix = list[list[float]]


def slow_cka(x: Matrix, y: Matrix) -> float:
    """Linear CKA of two matrices [samples, outputs], a number at a time."""

    def centred(rows: Matrix) -> Matrix:
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]

    def squared(a: Matrix, b: Matrix) -> float:
        """||b' a||_F**2."""
        return sum(
            sum(row_b[i] * row_a[j] for row_a, row_b in zip(a, b, strict=True)) ** 2
            for i in range(len(b[0]))
            for j in range(len(a[0]))
        )

    x, y = centred(x), centred(y)
    return squared(x, y) / math.sqrt(squared(x, x) * squared(y, y))


def logits(classes: int = 4, samples: int = 6) -> Tensor:
    return torch.randn(classes, samples, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sharpness", [0.0, 1.5])
def test_the_cost_equals_the_slow_oracle(sharpness: float) -> None:
    found = logits()
    cost = WassersteinCKA(found, sharpness=sharpness).cost
    for i in range(4):
        for j in range(4):
            distance = 1 - slow_cka(found[i].tolist(), found[j].tolist())
            expected = 1 - math.exp(-sharpness * distance) if sharpness else distance
            assert cost[i, j].item() == pytest.approx(max(expected, 0.0) + 1e-8, abs=1e-12)


def test_the_loss_is_that_of_the_other_form_at_this_cost() -> None:
    loss, other = WassersteinCKA(logits()), WassersteinLogits(torch.eye(4, dtype=torch.float64))
    other.cost = loss.cost
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 2, 3])
    assert torch.equal(loss(student, teacher, labels), other(student, teacher, labels))


def test_scale_and_shift_of_a_class_do_not_matter() -> None:
    found = logits()
    moved = found * torch.tensor([1.0, 3.0, 0.5, 2.0])[:, None, None] + torch.randn(4, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(cka_distances(moved), cka_distances(found), rtol=0, atol=1e-12)


def test_a_class_whose_logits_are_equal_is_far_from_all_others() -> None:
    found = logits()
    found[2] = 1.5
    distances = cka_distances(found)
    assert distances.isfinite().all() and distances[2].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("found", [None, torch.ones(4, 1, 4)])
def test_without_two_samples_a_class_it_is_refused(found: Tensor | None) -> None:
    with pytest.raises(InputError, match=r"class_logits must be .* or use wkd"):
        Distiller(
            cifar.create("resnet8", 4),
            cifar.create("resnet8", 4),
            {"wkd_cka": 1.0},
            example=torch.zeros(1, 3, 16, 16),
            class_logits=found,
        )


def test_a_run_takes_the_logits_of_training_images(digits_teacher) -> None:
    job = distillation_job(
        data="digits",
        image_size=8,
        device="cpu",
        teacher=str(digits_teacher),
        student="cifar/resnet8",
        loss={"ce": 1.0, "wkd_cka": 1.0},
    )
    labels = job.data.dataset.train.labels
    images = next(job.data.batches("train", len(labels)).epoch(0)).images
    with torch.no_grad():
        every = job.predict_teacher(images).double()
    of_classes = []
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        of_classes.append(every[torch.from_numpy(rows[np.linspace(0, len(rows) - 1, 64, dtype=np.int64)])])
    cost = job.distiller.losses.losses["wkd_cka"].cost
    assert cost.shape == (10, 10)
    for i, j in ((0, 1), (3, 8), (9, 2)):
        expected = 1 - math.exp(slow_cka(of_classes[i].tolist(), of_classes[j].tolist()) - 1)
        assert cost[i, j].item() == pytest.approx(expected, abs=1e-5)
