"""What a model costs, of a network whose costs are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from angularkd.features import trace
from angularkd.metrics import COSTS, Subject, cost, measure_costs
from angularkd.models import cifar


@pytest.fixture
def subject(monkeypatch) -> Subject:
    monkeypatch.setattr(cost, "REPEATS", 3)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )
    module.train()
    return Subject(module, module, (8, 8), torch.device("cpu"), trace(module, torch.zeros(1, 3, 8, 8)).flops)


def test_sizes_and_operations_are_counted(subject) -> None:
    found = measure_costs(subject, ["parameters", "macs", "file_mib"])
    numbers = 3 * 16 * 9 + 16 + 16 * 5 + 5
    assert found == {
        "parameters": numbers,
        "macs": 3 * 16 * 9 * 64 + 16 * 5,
        "file_mib": pytest.approx(4 * numbers / 2**20),
    }


def test_a_resnet_20_has_its_published_size() -> None:
    """0.27 million parameters (He et al., arXiv 1512.03385) and 41 million multiplications with additions."""
    module = cifar.create("resnet20", 10)
    flops = trace(module, torch.zeros(1, 3, 32, 32)).flops
    found = measure_costs(Subject(module, module, (32, 32), torch.device("cpu"), flops), ["parameters", "macs"])
    assert found["parameters"] == pytest.approx(0.27e6, rel=0.02) and found["macs"] == pytest.approx(41e6, rel=0.02)


def test_tied_weights_are_one_in_the_file(subject) -> None:
    first = nn.Linear(8, 8, bias=False)
    tied = nn.Sequential(first, nn.Linear(8, 8, bias=False))
    tied[1].weight = first.weight
    assert COSTS["file_mib"].measure(Subject(tied, tied, (8, 8), torch.device("cpu"))) == 4 * 64 / 2**20


def test_times_have_a_median_and_a_spread(subject) -> None:
    found = measure_costs(subject)
    assert list(found) == list(COSTS)
    assert list(found["timing"]) == ["1", "128"]
    for batch, row in found["timing"].items():
        assert row["repeats"] == 3 and row["median_ms"] > 0 and row["spread_ms"] >= 0
        assert row["images_per_second"] == pytest.approx(1e3 * int(batch) / row["median_ms"])
    assert found["latency_ms"] == found["timing"]["1"]["median_ms"]
    assert found["throughput"] == found["timing"]["128"]["images_per_second"]
    assert subject.module.training, "modes are put back"


def test_operations_that_could_not_be_counted_are_none() -> None:
    module = nn.Flatten()
    assert measure_costs(Subject(module, module, (8, 8), torch.device("cpu")), ["macs"]) == {"macs": None}


def test_peak_memory_is_that_of_the_largest_moment(subject) -> None:
    """Two maps of 16 x 8 x 8 are alive while the activation runs, beside images and weights."""
    found = measure_costs(subject, ["peak_memory_mib", "file_mib"])
    maps, images = 2 * 128 * 16 * 64 * 4, 128 * 3 * 64 * 4
    assert found["peak_memory_mib"] - found["file_mib"] == pytest.approx((maps + images) / 2**20, rel=0.01)


@pytest.mark.gpu
def test_costs_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    device = torch.device("cuda")
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()).to(device)
    found = measure_costs(Subject(module, module, (32, 32), device), ["latency_ms", "throughput", "peak_memory_mib"])
    assert found["latency_ms"] > 0 and found["throughput"] > 0
    assert found["peak_memory_mib"] >= (2 * 128 * 16 * 32**2 * 4 + 128 * 3 * 32**2 * 4) / 2**20
