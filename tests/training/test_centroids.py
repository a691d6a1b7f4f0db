"""Teachers without a classification layer on the command line: opened, measured by nearest centroids, and taught by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import angularkd
from angularkd import InputError
from angularkd.training.centroids import nearest_centroid_accuracy
from angularkd.types import Batch

TEACHER = """
import torch
from torch import nn


class Embedder(nn.Module):
    num_classes = 0

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.projection = nn.Linear(128, 24)

    def forward(self, images):
        return self.projection(self.body(images).flatten(1))


class Same(Embedder):
    def forward(self, images):
        return 1 + 0 * super().forward(images)


class Map(Embedder):
    def forward(self, images):
        return self.body(images)


def headless(kind=Embedder):
    torch.manual_seed(0)
    return kind()


def same():
    return headless(Same)


def pixels():
    return headless(Map)
"""


@pytest.fixture
def options(tmp_path: Path) -> dict:
    (tmp_path / "teacher.py").write_text(TEACHER)
    return {
        "data": "digits",
        "image_size": 8,
        "device": "cpu",
        "batch_size": 64,
        "epochs": 1,
        "teacher": f"{tmp_path / 'teacher.py'}:headless",
        "student": "cifar/resnet8",
        "loss": {"ce": 1.0, "embedding": 1.0},
        "out": tmp_path / "run",
    }


def batch(vectors: list[list[float]], labels: list[int]) -> Batch:
    images = torch.tensor(vectors)[:, :, None, None]
    return Batch(images, torch.tensor(labels), torch.arange(len(labels)), None)


def embed(images: torch.Tensor) -> torch.Tensor:
    return images[..., 0, 0]


def test_images_belong_to_the_class_whose_mean_direction_is_nearest() -> None:
    known = [batch([[9.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [0, 0]), batch([[0.0, 1.0, 0.0]], [2])]
    asked = [batch([[0.2, 0.1, 0.0], [0.1, 0.2, 0.0]], [0, 2]), batch([[5.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [2, 1])]
    assert nearest_centroid_accuracy(embed, known, asked, 3) == 0.5, "class 1 is not known"


def test_a_teacher_without_a_head_is_measured_and_teaches(options, tmp_path) -> None:
    plan = angularkd.plan(**options)
    assert set(plan.teacher_validation) == {"accuracy"} and plan.teacher_validation["accuracy"] > 0.5
    assert plan.teacher["classes"] == 0 and plan.gradient_share["embedding"] > 0
    assert any("the teacher has no classification layer: its embeddings teach" in note for note in plan.notes)
    run = angularkd.distill(
        **options, cache=tmp_path / "cache"
    )  # whose key holds the file in which the teacher's class is written
    assert set(run.results["metrics"]) == {"last epoch", "selected epoch"}, "it has no accuracy of its own"


def test_an_embedding_that_tells_nothing_is_refused(options) -> None:
    with pytest.raises(InputError, match="no better than chance"):
        angularkd.plan(**{**options, "teacher": options["teacher"].replace(":headless", ":same")})


def test_what_a_teacher_without_a_head_cannot_do(options) -> None:
    with pytest.raises(InputError, match="has no classification layer, and a loss compares logits"):
        angularkd.plan(**{**options, "loss": {"ce": 1.0, "kd": 1.0}})
    with pytest.raises(InputError, match=r"gives \[2, 8, 4, 4\] for a batch of 2 images, not an embedding"):
        angularkd.plan(**{**options, "teacher": options["teacher"].replace(":headless", ":pixels")})
    with pytest.raises(InputError, match="such a model can only be a teacher"):
        angularkd.plan(**{**options, "teacher": "cifar/resnet8", "student": options["teacher"]})
    with pytest.raises(InputError, match=r"the model .* has no classification layer: it predicts nothing to evaluate"):
        angularkd.evaluate(data="digits", image_size=8, device="cpu", model=options["teacher"])
