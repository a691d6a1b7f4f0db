"""Whether a teacher has learned anything: exact tests, on enough images, equally many of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import angularkd
from angularkd import InputError
from angularkd.training.chance import Score, balanced, binomial_tail, score
from helpers import training_job

TEACHERS = """
import torch
from torch import nn


class Brightness(nn.Module):
    "Two classes, dark and bright, of which some images of the second are called the first."

    def __init__(self, always=False, untrained=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.always, self.untrained = always, untrained
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        features = torch.relu(self.conv(images)).mean((2, 3))
        logits = 1e-3 * self.head(features)
        level = images.mean((1, 2, 3))
        if self.untrained:
            level = (1e4 * level).frac().abs() - 0.5
        if self.always:
            level = level * 0 - 1
        return logits + torch.stack([-level, level], 1)


def perfect():
    return Brightness()


def constant():
    return Brightness(always=True)


def guessing():
    return Brightness(untrained=True)
"""


def two_classes(root: Path, dark: int, bright: int) -> str:
    generator = np.random.default_rng(0)
    for name, count, low in (("dark", dark, 0), ("light", bright, 156)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(low, low + 100, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


@pytest.fixture
def options(tmp_path) -> dict[str, Any]:
    (tmp_path / "teachers.py").write_text(TEACHERS)
    return {
        "student": "cifar/resnet8",
        "teacher_normalization": "0.5,0.5,0.5/0.5,0.5,0.5",
        "device": "cpu",
        "loss": {"ce": 1.0, "kd": 1.0},
        "batch_size": 16,
    }


def teacher(tmp_path: Path, name: str) -> str:
    return f"{tmp_path / 'teachers.py'}:{name}"


def test_the_tail_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for least, trials, probability in ((0, 4, 0.5), (4, 4, 0.5), (11, 180, 0.1), (300, 10_000, 0.01), (5, 9, 1.0)):
        expected = stats.binom.sf(least - 1, trials, probability)
        assert binomial_tail(least, trials, probability) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("right", "images", "chance", "verdict"),
    [
        (4, 4, 0.5, "neither"),
        (40, 40, 0.5, "above"),
        (18, 180, 0.1, "at"),
        (9, 18, 0.5, "at"),
        (13, 20, 0.5, "neither"),
        (190, 200, 0.95, "at"),
        (15, 500, 0.01, "above"),
        (0, 500, 0.01, "at"),
    ],
)
def test_evidence_decides(right, images, chance, verdict) -> None:
    found = Score(right, images, chance)
    assert (found.above_chance, found.at_chance) == (verdict == "above", verdict == "at")


def test_guessing_names_the_most_frequent_class() -> None:
    found = score(0.75, np.array([0, 0, 0, 1]))
    assert (found.right, found.images, found.chance) == (3, 4, 0.75)


def test_a_perfect_teacher_of_few_images_is_taken(options, tmp_path) -> None:
    data = two_classes(tmp_path / "data", 20, 20)
    plan = angularkd.plan(**options, data=data, teacher=teacher(tmp_path, "perfect"))
    assert plan.teacher_validation["accuracy"] == 1 and plan.teacher_images == 4
    assert not any("chance" in note for note in plan.notes)


def test_a_perfect_teacher_of_very_few_images_is_taken_with_a_note(options, tmp_path) -> None:
    data = two_classes(tmp_path / "data", 3, 3)
    plan = angularkd.plan(**options, data=data, teacher=teacher(tmp_path, "perfect"))
    assert any("100.0% on 4 images" in note and "too few to tell it from chance (50.0%)" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("name", "dark", "bright"), [("constant", 190, 10), ("constant", 30, 30), ("guessing", 60, 60)]
)
def test_a_teacher_that_has_learned_nothing_is_refused(options, tmp_path, name, dark, bright) -> None:
    data = two_classes(tmp_path / "data", dark, bright)
    with pytest.raises(InputError, match=r"equally many of each class, no better than chance \(50\.0%\): check its"):
        angularkd.distill(**options, data=data, teacher=teacher(tmp_path, name), out=tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


def test_a_good_teacher_of_unequal_classes_is_taken(options, tmp_path) -> None:
    data = two_classes(tmp_path / "data", 190, 10)
    angularkd.plan(**options, data=data, teacher=teacher(tmp_path, "perfect"))


def test_as_many_images_of_each_class_are_looked_at(tmp_path) -> None:
    data = two_classes(tmp_path / "data", 60, 20)
    job = training_job(data=data, model="cifar/resnet8", device="cpu")
    rows = np.arange(len(job.data.dataset.train))
    for most, each in ((500, 16), (10, 5), (1, 1)):
        counts = np.bincount(balanced(job.data, "train", rows, most).dataset.train.labels)
        assert set(counts[counts > 0]) == {each}, most
