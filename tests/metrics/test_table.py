"""The tables of metrics: every row declares what it uses, and reads as it should."""

from __future__ import annotations

import json

import pytest
import torch

from angularkd.errors import InputError
from angularkd.metrics import COSTS, DEFAULT_METRICS, METRICS, Observation, check_metrics, format_metric, row_of
from angularkd.metrics.observation import SIGNALS

CLASSES, COUNT = 7, 12
NUMBERS = [name for name, row in METRICS.items() if row.is_number]


def signals() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    stages = [torch.rand(COUNT, 3, side, side, generator=generator) for side in (8, 4, 8, 2)]
    logits = torch.randn(COUNT, CLASSES, generator=generator)
    return {
        "images": torch.rand(COUNT, 3, 8, 8, generator=generator),
        "labels": torch.arange(COUNT) % CLASSES,
        "indices": torch.arange(COUNT),
        "predict": lambda images: logits,
        "temperature": 0.9,
        "logits": logits,
        "teacher_logits": torch.randn(COUNT, CLASSES, generator=generator),
        "student_features": stages[:2],
        "teacher_features": stages[2:],
    }


def test_signals_are_those_of_an_observation() -> None:
    assert set(SIGNALS) == set(signals()) == set(Observation.__annotations__) - {"num_classes"}


@pytest.mark.parametrize("name", METRICS)
def test_a_row_needs_what_it_uses_and_no_more(name) -> None:
    row = METRICS[name]
    assert row.needs and len(set(row.needs)) == len(row.needs)
    given = {signal: signals()[signal] for signal in row.needs}
    value = row.value(row.sums(Observation(CLASSES, **given)), COUNT)
    assert isinstance(value, float) == row.is_number
    json.dumps(value, allow_nan=False)
    for signal in row.needs:
        fewer = {other: value for other, value in given.items() if other != signal}
        with pytest.raises(AttributeError, match=f"no attribute '{signal}'"):
            row.sums(Observation(CLASSES, **fewer))


@pytest.mark.parametrize("name", NUMBERS)
def test_better_predictions_and_features_lie_in_the_rows_direction(name) -> None:
    row, worse = METRICS[name], signals()
    better = {
        **worse,
        "logits": 5 * torch.eye(CLASSES)[worse["labels"]],
        "predict": lambda images: torch.eye(CLASSES)[worse["labels"]],
        "teacher_logits": 5 * torch.eye(CLASSES)[worse["labels"]],
        "student_features": worse["teacher_features"],
    }
    bad, good = (row.value(row.sums(Observation(CLASSES, **given)), COUNT) for given in (worse, better))
    assert (good > bad) if row.better == "higher" else (good < bad)


@pytest.mark.parametrize("name", [*METRICS, *COSTS])
def test_percent_is_printed_where_it_is_the_unit(name) -> None:
    row = row_of(name)
    assert row.summary and row.unit in ("%", "nats", "", "°", "MiB", "ms", "images/s")
    if row.is_number:
        expected = {"%": "2200.00%", "nats": "22.0000", "°": "22.00", "images/s": "22", "MiB": "22.00", "ms": "22.00"}
        usual = "22" if name in COSTS else "22.0000"
        assert format_metric(name, 22) == expected.get(row.unit, usual)


def test_no_name_is_in_both_tables() -> None:
    assert not set(METRICS) & set(COSTS)


def test_the_order_of_the_default_metrics_stays() -> None:
    names = ["accuracy", "balanced_accuracy", "nll", "brier", "ece", "top5", "agreement", "divergence"]
    names += ["nll_calibrated", "brier_calibrated", "ece_calibrated"]
    assert list(DEFAULT_METRICS) == names == [name for name in METRICS if name in names]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    check_metrics(METRICS)
    check_metrics(COSTS)
    with pytest.raises(InputError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'"):
        check_metrics(["nll", "acuracy"])
    with pytest.raises(InputError, match="names no metric"):
        check_metrics([])
