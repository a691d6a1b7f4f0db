"""Evaluation makes one pass, computes only what is needed, and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features import FeatureExtractor, stages_at, trace
from angularkd.metrics import METRICS, Metric, evaluate
from angularkd.types import Batch
from helpers import same

CLASSES = 7


def batches(count: int = 3, size: int = 6) -> Any:
    """A one-shot iterator."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count * size, size):
        rows = torch.arange(start, start + size)
        yield Batch(torch.rand(size, 3, 8, 8, generator=generator), rows % CLASSES, rows, 0)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    )


class Counted:
    """Count the calls of a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, images: Tensor) -> Any:
        self.calls += 1
        return self.function(images)


@pytest.mark.parametrize(
    ("metrics", "calls"),
    [
        (["accuracy", "nll"], [3, 0, 0, 0]),
        (["accuracy", "agreement", "divergence"], [3, 3, 0, 0]),
        (["cka", "attention_similarity"], [0, 0, 3, 3]),
        (["accuracy", "divergence", "cka"], [0, 0, 3, 3]),
        (None, [3, 3, 0, 0]),
    ],
)
def test_one_pass_computes_only_what_the_requested_metrics_need(metrics, calls) -> None:
    model, teacher = network(0), network(1)
    extractors = [
        FeatureExtractor(net, stages_at(net, ["1"], trace(net, torch.zeros(1, 3, 8, 8)))) for net in (model, teacher)
    ]
    counted = [Counted(function) for function in (model, teacher, *extractors)]
    found = evaluate(
        model, counted[0], batches(), CLASSES, teacher=counted[1], extractors=(counted[2], counted[3]), metrics=metrics
    )
    assert [function.calls for function in counted] == calls
    if metrics is not None:
        assert list(found) == metrics


def test_logits_are_the_same_whether_features_come_with_them_or_not() -> None:
    model, teacher = network(0), network(1)
    extractors = [
        FeatureExtractor(net, stages_at(net, ["1"], trace(net, torch.zeros(1, 3, 8, 8)))) for net in (model, teacher)
    ]
    alone = evaluate(model, model, batches(), CLASSES, teacher=teacher)
    names = [*alone, "cka"]
    beside = evaluate(model, model, batches(), CLASSES, teacher=teacher, extractors=tuple(extractors), metrics=names)
    assert 0 < beside.pop("cka") <= 1
    assert beside == alone


def test_a_new_metric_is_a_function_and_a_row(monkeypatch) -> None:
    row = Metric("mean brightness", ("images",), lambda batch: batch.images.mean(dim=(1, 2, 3)).sum(), "higher")
    monkeypatch.setitem(METRICS, "brightness", row)
    model = network(0)
    expected = torch.cat([batch.images for batch in batches()]).mean().item()
    assert evaluate(model, model, batches(), CLASSES, metrics=["brightness"]) == {"brightness": pytest.approx(expected)}


def test_a_signal_that_no_row_needs_is_not_there_even_where_it_costs_nothing(monkeypatch) -> None:
    row = Metric("mean label", ("images",), lambda batch: batch.labels.sum(), "higher")
    monkeypatch.setitem(METRICS, "label", row)
    model = network(0)
    with pytest.raises(AttributeError, match="no attribute 'labels'"):
        evaluate(model, model, batches(), CLASSES, metrics=["label"])


def test_defaults_are_left_out_where_they_say_nothing() -> None:
    model = network(0)
    assert list(evaluate(model, model, batches(), CLASSES)) == [
        "accuracy",
        "balanced_accuracy",
        "nll",
        "brier",
        "ece",
        "top5",
    ]
    few = [Batch(torch.zeros(4, 3, 8, 8), torch.arange(4), torch.arange(4), 0)]
    assert "top5" not in evaluate(model, lambda images: model(images)[:, :5], few, 5)
    assert "top5" in evaluate(model, lambda images: model(images)[:, :6], few, 6)


def test_metrics_of_calibrated_probabilities_come_by_default_where_there_is_a_temperature() -> None:
    model = network(0)
    found = evaluate(model, model, batches(), CLASSES, temperature=2.0)
    assert [name for name in found if "calibrated" in name] == ["nll_calibrated", "brier_calibrated", "ece_calibrated"]
    halved = evaluate(model, lambda images: model(images) / 2, batches(), CLASSES)
    assert {name: found[f"{name}_calibrated"] for name in ("nll", "brier", "ece")} == {
        name: halved[name] for name in ("nll", "brier", "ece")
    }


def test_rows_of_one_function_share_what_it_returns(monkeypatch) -> None:
    calls = []

    def brightness(batch: Any) -> Tensor:
        calls.append(len(batch.images))
        return batch.images.sum()

    for name in ("one", "other"):
        monkeypatch.setitem(METRICS, name, Metric("brightness", ("images",), brightness, "higher"))
    model = network(0)
    found = evaluate(model, model, batches(), CLASSES, metrics=["one", "other"])
    assert calls == [6, 6, 6] and found["one"] == found["other"]


def test_rows_an_image_are_joined_in_order(monkeypatch) -> None:
    row = Metric(
        "rows", ("indices",), lambda batch: batch.indices, None, value=lambda rows, _: rows.tolist(), per_image=True
    )
    monkeypatch.setitem(METRICS, "rows", row)
    model = network(0)
    assert evaluate(model, model, batches(), CLASSES, metrics=["rows"])["rows"] == list(range(18))


@pytest.mark.parametrize(
    ("metrics", "classes", "message"),
    [
        (["ece_calibrated"], CLASSES, "'ece_calibrated' needs a `temperature`"),
        (["acc", "nll"], CLASSES, "no metric 'acc'"),
        (["nll", "agreement"], CLASSES, "'agreement' needs a `teacher` of the same classes"),
        (["cka"], CLASSES, "'cka' needs a `teacher` whose stages are paired"),
        (["top5"], 5, "'top5' needs 6 classes at least, the data has 5"),
        (["confusion"], 21_841, "'confusion' is of 2,000 classes at most, the data has 21,841: leave it out"),
    ],
)
def test_what_is_requested_and_cannot_be_computed_is_refused_before_any_image(metrics, classes, message) -> None:
    def unread() -> Any:
        raise AssertionError
        yield

    model = network(0)
    with pytest.raises(InputError, match=message):
        evaluate(model, model, unread(), classes, metrics=metrics)


def test_evaluation_restores_every_modules_mode_and_changes_no_statistics() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Sequential(nn.Dropout(), nn.Linear(192, CLASSES)))
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, model, batches(), CLASSES)
    assert [module.training for module in model.modules()] == modes
    assert same(model.state_dict(), before)
    with pytest.raises(RuntimeError):
        evaluate(model, lambda images: model(images[:, :1]), batches(), CLASSES)
    assert [module.training for module in model.modules()] == modes
