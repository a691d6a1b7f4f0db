"""Calibration: errors, curves and temperatures against known values, scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torch import Tensor, nn

from angularkd import InputError
from angularkd.metrics import fit_temperature, reliability, reliability_of, temperature_on
from angularkd.metrics.temperature import LARGEST, LEAST, LEAST_IMAGES
from angularkd.types import Batch


def drawn(count: int, classes: int = 5, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from their own probabilities: perfectly calibrated."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


def two_classes(confidence: float) -> Tensor:
    return torch.tensor([confidence, 1 - confidence]).log()


ERRORS = ("ece", "ece_mass")


@pytest.mark.parametrize("name", ERRORS)
def test_a_perfectly_calibrated_toy_has_no_error(measure, name) -> None:
    logits = torch.stack([two_classes(0.8)] * 5 + [two_classes(0.6)] * 5)
    labels = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1, 1])
    curve = reliability_of(logits, labels)["equal_width"]
    assert curve["count"][8] + curve["count"][9] + curve["count"][11] + curve["count"][12] == 10
    found = measure(labels, logits, metrics=[name], size=3)[name]
    assert found == pytest.approx(0, abs=1e-6), "float32 has seven digits"


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_an_over_confident_toy_has_its_known_error(measure, name, confidence) -> None:
    """It is right in half of the cases: the error is its confidence less one half."""
    logits, labels = torch.stack([two_classes(confidence)] * 8), torch.tensor([0, 1] * 4)
    assert measure(labels, logits, metrics=[name], size=3)[name] == pytest.approx(confidence - 0.5, abs=1e-6)


def test_errors_equal_torchmetrics(measure) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = drawn(200)
    logits = 2 * logits
    theirs = functional.multiclass_calibration_error(logits.softmax(dim=1), labels, num_classes=5, n_bins=15)
    assert measure(labels, logits, metrics=["ece"])["ece"] == pytest.approx(float(theirs), abs=1e-6)


def curve_of_sklearn(logits: Tensor, labels: Tensor, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return calibration_curve((predicted == labels).numpy(), confidence.double().numpy(), n_bins=15, strategy=strategy)


@pytest.mark.parametrize(("kind", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
def test_curves_equal_scikit_learns(measure, kind, strategy) -> None:
    logits, labels = drawn(150)
    accuracy, confidence = curve_of_sklearn(logits, labels, strategy)
    curve = measure(labels, logits, metrics=["reliability"], size=7)["reliability"][kind]
    filled = [number for number, count in enumerate(curve["count"]) if count]
    assert [curve["accuracy"][number] for number in filled] == pytest.approx(accuracy)
    assert [curve["confidence"][number] for number in filled] == pytest.approx(confidence)
    assert sum(curve["count"]) == 150
    assert all(len(values) == 15 for values in curve.values())


def test_empty_bins_hold_nothing() -> None:
    curves = reliability(torch.tensor([0.5, 1.0]), torch.tensor([True, False]))
    wide = curves["equal_width"]
    assert wide["count"] == [0] * 7 + [1] + [0] * 6 + [1]
    assert wide["accuracy"][7] == 1 and wide["accuracy"][14] == 0 and wide["accuracy"][0] is None
    assert curves["equal_mass"]["count"] == [1, 1] + [0] * 13


def test_the_curves_give_the_errors(measure) -> None:
    logits, labels = drawn(101)
    found = measure(labels, 3 * logits, metrics=["ece", "ece_mass", "reliability"])
    for name, kind in (("ece", "equal_width"), ("ece_mass", "equal_mass")):
        curve = found["reliability"][kind]
        rows = zip(curve["count"], curve["confidence"], curve["accuracy"], strict=True)
        gaps = [count * abs(confidence - accuracy) for count, confidence, accuracy in rows if count]
        assert found[name] == pytest.approx(sum(gaps) / 101, abs=1e-6)


def test_equal_confidences_do_not_depend_on_the_order_of_images(measure) -> None:
    logits, labels = torch.stack([two_classes(0.75)] * 40), torch.tensor([0] * 20 + [1] * 20)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    sorted_, mixed = (measure(labels[rows], logits, metrics=["ece_mass"]) for rows in (torch.arange(40), order))
    assert sorted_["ece_mass"] == mixed["ece_mass"] == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature) -> None:
    logits, labels = drawn(40_000, scale=1.5)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.03), "of 40,000 draws"


def test_the_fitted_temperature_is_the_minimum_of_the_likelihood() -> None:
    logits, labels = drawn(500)
    logits = 2.5 * logits
    fitted = fit_temperature(logits, labels)

    def nll(temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits.double() / temperature, labels))

    assert nll(fitted) < min(nll(fitted * 1.001), nll(fitted / 1.001), nll(1.0))


def test_logits_that_say_nothing_of_a_temperature_stay_as_they_are() -> None:
    labels = torch.arange(5)
    assert fit_temperature(3 * torch.eye(5), labels) == 1, "every image is right"
    assert fit_temperature(torch.zeros(5, 5), labels) == 1
    assert fit_temperature(3 * torch.eye(5), labels.roll(1)) == 1, "every image is wrong"


def test_temperatures_are_bounded() -> None:
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[1e-9, 0.0]])
    labels = torch.tensor([0] * 50 + [1])
    assert fit_temperature(torch.cat([right] * 50 + [wrong]), labels) == LEAST
    over = 1e4 * torch.cat([right] * 51)
    assert fit_temperature(over, labels) == LARGEST


def test_logits_that_are_not_finite_are_refused_and_give_no_temperature() -> None:
    logits = torch.full((3, 2), float("nan"))
    with pytest.raises(InputError, match="logits are not finite"):
        fit_temperature(logits, torch.zeros(3, dtype=torch.long))
    batch = Batch(torch.zeros(3, 3, 2, 2), torch.zeros(3, dtype=torch.long), torch.arange(3), 0)
    assert temperature_on(nn.Identity(), lambda images: logits, [batch], 3) is None
    assert temperature_on(nn.Identity(), lambda images: logits, [], 0) is None


@pytest.mark.parametrize("images", [LEAST_IMAGES - 1, LEAST_IMAGES])
def test_none_is_fitted_to_a_few_images(images) -> None:
    logits, labels = drawn(images)
    batch = Batch(torch.zeros(images, 3, 1, 1), labels, torch.arange(images), 0)
    found = temperature_on(nn.Identity(), lambda _: 2 * logits, [batch], images)
    assert fit_temperature(2 * logits, labels) != 1
    assert found == (1 if images < LEAST_IMAGES else fit_temperature(2 * logits, labels))


@pytest.mark.parametrize(("limit", "value"), [("MOST_IMAGES", 100), ("MOST_LOGITS", 500)])
def test_of_many_images_evenly_spread_ones_are_used_whatever_the_batches(monkeypatch, limit, value) -> None:
    from angularkd.metrics import temperature

    monkeypatch.setattr(temperature, limit, value)
    logits, labels = drawn(250)
    expected = fit_temperature(2 * logits[::3], labels[::3])
    for size in (250, 7):
        parts = torch.arange(250).split(size)
        batches = [Batch(rows[:, None, None, None].expand(-1, 3, 1, 1), labels[rows], rows, 0) for rows in parts]
        found = temperature_on(nn.Identity(), lambda images: 2 * logits[images[:, 0, 0, 0]], batches, 250)
        assert found == pytest.approx(expected)
    assert expected != pytest.approx(fit_temperature(2 * logits, labels), rel=1e-6)
