"""Metrics of predictions against their definitions in NumPy and scikit-learn, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

CLASSES = 7
COUNT = 60


def numbers(seed: int, classes: int = CLASSES) -> torch.Tensor:
    return 2 * torch.randn(COUNT, classes, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(0, CLASSES, (COUNT,), generator=torch.Generator().manual_seed(1))


def probabilities(logits: torch.Tensor) -> np.ndarray:
    return logits.double().softmax(dim=1).numpy()


def slow_calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """By the definition of Guo et al.: over the bins, the gap of mean confidence and accuracy, by the bin's share of images."""
    error = 0.0
    for low in np.arange(15) / 15:
        chosen = [i for i in range(len(y)) if low < p[i].max() <= low + 1 / 15]
        if chosen:
            confidence = np.mean([p[i].max() for i in chosen])
            accuracy = np.mean([p[i].argmax() == y[i] for i in chosen])
            error += len(chosen) / len(y) * abs(accuracy - confidence)
    return error


def test_every_default_metric_equals_its_definition_whatever_the_batches(measure, labels) -> None:
    student, teacher = numbers(0), numbers(2)
    p, q, y = probabilities(student), probabilities(teacher), labels.numpy()
    expected = {
        "accuracy": np.mean(p.argmax(1) == y),
        "balanced_accuracy": balanced_accuracy_score(y, p.argmax(1)),
        "nll": log_loss(y, p, labels=range(CLASSES)),
        "brier": ((p - np.eye(CLASSES)[y]) ** 2).sum(1).mean(),
        "ece": slow_calibration_error(p, y),
        "top5": top_k_accuracy_score(y, p, k=5, labels=range(CLASSES)),
        "agreement": np.mean(p.argmax(1) == q.argmax(1)),
        "divergence": (q * np.log(q / p)).sum(1).mean(),
    }
    for size in (COUNT, 17, 1):
        found = measure(labels, student, teacher, size=size)
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_class_without_images_does_not_count_even_when_it_is_predicted(measure) -> None:
    found = measure(torch.tensor([0, 0, 1, 1]), torch.eye(3)[[0, 0, 1, 2]])
    assert found["balanced_accuracy"] == pytest.approx(0.75)


def test_calibration_where_everything_is_certain_and_half_of_it_wrong(measure) -> None:
    found = measure(torch.tensor([0, 1, 1, 1]), 1000 * torch.eye(3)[[0, 1, 2, 0]])
    assert found["ece"] == pytest.approx(0.5)


def test_calibration_gaps_of_one_bin_cancel_across_batches(measure) -> None:
    logits = torch.zeros(2, 2)  # confidence 1/2, one hit and one miss
    assert measure(torch.tensor([0, 1]), logits, size=1)["ece"] == pytest.approx(0.0, abs=1e-7)


def test_nan_is_not_hidden(measure) -> None:
    found = measure(torch.tensor([0, 1]), torch.full((2, CLASSES), float("nan")))
    assert np.isnan(found["nll"]) and np.isnan(found["ece"])


def test_half_precision_logits_give_what_their_float32_gives(measure, labels) -> None:
    student, teacher = numbers(0).bfloat16(), numbers(2).bfloat16()
    assert measure(labels, student, teacher) == measure(labels, student.float(), teacher.float())


def test_a_model_that_is_its_teacher_agrees_wholly(measure, labels) -> None:
    found = measure(labels, numbers(0), numbers(0))
    assert found["agreement"] == 1.0 and found["divergence"] == pytest.approx(0.0, abs=1e-7)
