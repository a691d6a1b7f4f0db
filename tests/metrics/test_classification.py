"""Metrics against their definitions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from angularkd.metrics.classification import ClassifierMetrics, TrainingMeter
from angularkd.metrics.evaluate import evaluate
from angularkd.types import Batch, Distilled


def logits(count: int = 60, classes: int = 7, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 60, classes: int = 7) -> torch.Tensor:
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(1))


def test_every_metric_equals_its_definition() -> None:
    metrics = ClassifierMetrics(7)
    student, truth, teacher = logits(), labels(), logits(seed=2)
    for part in torch.arange(60).split(17):
        metrics.update(student[part], truth[part], teacher[part])
    found = metrics.compute()
    z, y, t = student.double().numpy(), truth.numpy(), teacher.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = np.exp(t) / np.exp(t).sum(1, keepdims=True)
    order = np.argsort(-z, axis=1)
    hit = order[:, 0] == y
    confidence = p.max(1)
    ece = sum(
        abs(hit[chosen].mean() - confidence[chosen].mean()) * chosen.mean()
        for low in np.arange(15) / 15
        if (chosen := (confidence > low) & (confidence <= low + 1 / 15)).any()
    )
    expected = {
        "accuracy": hit.mean(),
        "balanced_accuracy": np.mean([hit[y == k].mean() for k in range(7)]),
        "top5": np.mean([y[i] in order[i, :5] for i in range(60)]),
        "nll": -np.log(p[np.arange(60), y]).mean(),
        "brier": ((p - np.eye(7)[y]) ** 2).sum(1).mean(),
        "ece": ece,
        "agreement": (order[:, 0] == t.argmax(1)).mean(),
        "divergence": (q * np.log(q / p)).sum(1).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-4)


def test_top5_is_left_out_where_it_says_nothing() -> None:
    metrics = ClassifierMetrics(4)
    metrics.update(logits(classes=4), labels(classes=4))
    assert "top5" not in metrics.compute()


def test_a_class_without_samples_does_not_count_even_when_it_is_named() -> None:
    metrics = ClassifierMetrics(3)
    metrics.update(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 1]))
    assert metrics.compute()["balanced_accuracy"] == pytest.approx(0.75)


def test_calibration_where_everything_is_certain_and_half_of_it_wrong() -> None:
    metrics = ClassifierMetrics(3)
    metrics.update(1000 * torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 1, 1]))
    assert metrics.compute()["ece"] == pytest.approx(0.5)


def test_nan_is_not_hidden() -> None:
    metrics = ClassifierMetrics(7)
    metrics.update(torch.full((2, 7), float("nan")), labels(2))
    found = metrics.compute()
    assert np.isnan(found["nll"]) and np.isnan(found["ece"])


def test_training_means_weigh_batches_by_their_size() -> None:
    meter = TrainingMeter()
    for value, count in ((1.0, 3), (5.0, 1)):
        zero = torch.zeros(count, dtype=torch.long)
        out = Distilled(torch.tensor(value), {"ce": torch.tensor(value / 2)}, torch.eye(4)[zero])
        meter.update(out, zero)
    assert meter.compute() == {"loss": 2.0, "ce": 1.0, "train_accuracy": 1.0}


def test_evaluation_restores_every_modules_mode_and_changes_no_statistics() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Sequential(nn.Dropout(), nn.Linear(12, 7)))
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = Batch(torch.rand(6, 3, 2, 2), labels(6), torch.arange(6), 0)
    evaluate(model, model, [batch], 7)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError):
        evaluate(model, lambda images: model(images[:, :1]), [batch], 7)
    assert [module.training for module in model.modules()] == modes
