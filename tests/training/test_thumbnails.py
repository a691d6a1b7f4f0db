"""A teacher that knows less than the training labels say is called weak before a student is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import angularkd
from angularkd.training import plan
from angularkd.training.thumbnails import nearest_thumbnail_hits, weak_teacher_note
from angularkd.types import Batch
from helpers import DIGITS


def batch(images: torch.Tensor, labels: list[int]) -> Batch:
    return Batch(images, torch.tensor(labels), torch.arange(len(labels)), None)


def test_the_nearest_thumbnail_is_that_of_the_same_picture_at_any_size() -> None:
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    large = pictures.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    known = [batch(pictures[:4], [0, 1, 2, 3]), batch(pictures[4:], [4, 5])]
    found = nearest_thumbnail_hits(known, [batch(large.flip(0), [5, 4, 0, 2, 1, 1])])
    assert found.tolist() == [True, True, False, True, True, False]


@pytest.mark.parametrize(
    ("teacher", "labels", "weak"),
    [(68, 96, True), (96, 96, False), (96, 68, False), (95, 97, False), (50, 56, False), (50, 64, True)],
)
def test_a_teacher_is_weak_where_the_difference_is_no_accident(teacher, labels, weak) -> None:
    right = np.arange(100)
    note = weak_teacher_note(right < teacher, right < labels, 500)
    assert (note is not None) == weak
    if note is not None:
        assert f"{teacher / 100:.1%}" in note and f"{labels / 100:.1%}" in note and "500 training" in note


def test_images_that_either_has_right_alone_are_weighed_against_each_other() -> None:
    right = np.arange(100)
    assert weak_teacher_note(right < 10, (right >= 10) & (right < 22), 500) is None  # 12 against 10


def test_the_plan_says_so(digits_teacher, monkeypatch) -> None:
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8"}
    seen: list[tuple[np.ndarray, np.ndarray, int]] = []
    monkeypatch.setattr(plan, "weak_teacher_note", lambda *found: seen.append(found) or "weak")
    found = angularkd.plan(**options)
    assert "weak" in found.notes
    hits, by_labels, known = seen[0]
    assert hits.mean() == pytest.approx(found.teacher_validation["accuracy"]) and known == plan.MEASURED_IMAGES
    assert 0.9 < by_labels.mean() < 1  # of digits, the nearest neighbour has nearly all
