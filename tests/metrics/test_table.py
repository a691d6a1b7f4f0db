"""The table of metrics: every row declares what it uses, and reads as it should."""

from __future__ import annotations

import pytest
import torch

from angularkd.errors import InputError
from angularkd.metrics import DEFAULT_METRICS, METRICS, Observation, check_metrics, format_metric
from angularkd.metrics.observation import SIGNALS

CLASSES, COUNT = 7, 12


def signals() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    stages = [torch.rand(COUNT, 3, side, side, generator=generator) for side in (8, 4, 8, 2)]
    return {
        "images": torch.rand(COUNT, 3, 8, 8, generator=generator),
        "labels": torch.arange(COUNT) % CLASSES,
        "logits": torch.randn(COUNT, CLASSES, generator=generator),
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
    assert isinstance(row.value(row.sums(Observation(CLASSES, **given)), COUNT), float)
    for signal in row.needs:
        fewer = {other: value for other, value in given.items() if other != signal}
        with pytest.raises(AttributeError, match=f"no attribute '{signal}'"):
            row.sums(Observation(CLASSES, **fewer))


@pytest.mark.parametrize("name", METRICS)
def test_better_predictions_and_features_lie_in_the_rows_direction(name) -> None:
    row, worse = METRICS[name], signals()
    better = {
        **worse,
        "logits": 5 * torch.eye(CLASSES)[worse["labels"]],
        "teacher_logits": 5 * torch.eye(CLASSES)[worse["labels"]],
        "student_features": worse["teacher_features"],
    }
    bad, good = (row.value(row.sums(Observation(CLASSES, **given)), COUNT) for given in (worse, better))
    assert (good > bad) if row.better == "higher" else (good < bad)


@pytest.mark.parametrize("name", METRICS)
def test_percent_is_printed_where_it_is_the_unit(name) -> None:
    row = METRICS[name]
    assert row.summary and row.unit in ("%", "nats", "")
    assert format_metric(name, 0.123456) == ("12.35%" if row.unit == "%" else "0.1235")


def test_the_order_of_the_default_metrics_stays() -> None:
    names = ["accuracy", "balanced_accuracy", "nll", "brier", "ece", "top5", "agreement", "divergence"]
    assert list(DEFAULT_METRICS) == names == [name for name in METRICS if name in names]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    check_metrics(METRICS)
    with pytest.raises(InputError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'"):
        check_metrics(["nll", "acuracy"])
    with pytest.raises(InputError, match="names no metric"):
        check_metrics([])
