"""Metrics of predicted classes against scikit-learn, torchmetrics and timm."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import brier_score_loss, confusion_matrix, recall_score
from torch import Tensor

CLASSES, COUNT = 7, 60


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES - 1, (COUNT,), generator=generator)  # the last class has no images
    return labels, torch.randn(COUNT, CLASSES, generator=generator) + torch.eye(CLASSES)[labels]


@pytest.mark.parametrize("size", [COUNT, 17])
def test_recall_and_confusion_equal_scikit_learns(measure, case, size) -> None:
    labels, logits = case
    found = measure(labels, logits, metrics=["confusion", "recall", "balanced_accuracy"], size=size)
    predicted = logits.argmax(dim=1)
    assert found["confusion"] == confusion_matrix(labels, predicted, labels=range(CLASSES)).tolist()
    recalls = recall_score(labels, predicted, labels=range(CLASSES - 1), average=None)
    assert found["recall"][:-1] == pytest.approx(recalls) and found["recall"][-1] is None
    assert found["balanced_accuracy"] == pytest.approx(recalls.mean())


def test_confusion_and_brier_equal_other_libraries(measure, case) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    labels, logits = case
    found = measure(labels, logits, metrics=["confusion", "accuracy", "top5", "brier"])
    assert found["confusion"] == functional.multiclass_confusion_matrix(logits, labels, CLASSES).tolist()
    for name, top in (("accuracy", 1), ("top5", 5)):
        theirs = functional.multiclass_accuracy(logits, labels, CLASSES, average="micro", top_k=top)
        assert found[name] == pytest.approx(float(theirs))
    probabilities = logits.softmax(dim=1).double()
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    brier = brier_score_loss(labels, probabilities, labels=range(CLASSES), scale_by_half=False)
    assert found["brier"] == pytest.approx(brier)


def test_accuracy_equals_timms(measure, case) -> None:
    from timm.utils import AverageMeter, accuracy

    labels, logits = case
    found = measure(labels, logits, metrics=["accuracy", "top5"], size=17)
    meters = [AverageMeter(), AverageMeter()]
    for part in torch.arange(COUNT).split(17):
        for meter, value in zip(meters, accuracy(logits[part], labels[part], topk=(1, 5)), strict=True):
            meter.update(float(value), len(part))
    assert [100 * found["accuracy"], 100 * found["top5"]] == pytest.approx([meter.avg for meter in meters])
