"""The means of a training epoch."""

from __future__ import annotations

import torch

from angularkd.training.meter import TrainingMeter
from angularkd.types import Distilled


def test_means_weigh_batches_by_their_size() -> None:
    meter = TrainingMeter()
    for value, count in ((1.0, 3), (5.0, 1)):
        zero = torch.zeros(count, dtype=torch.long)
        out = Distilled(torch.tensor(value), {"ce": torch.tensor(value / 2)}, torch.eye(4)[zero])
        meter.update(out, zero)
    assert meter.compute() == {"loss": 2.0, "ce": 1.0, "train_accuracy": 1.0}


def test_soft_labels_count_as_the_class_of_their_largest_share() -> None:
    meter = TrainingMeter()
    out = Distilled(torch.tensor(1.0, requires_grad=True), {}, torch.eye(3))
    meter.update(out, torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]]))
    assert meter.compute() == {"loss": 1.0, "train_accuracy": torch.tensor(2.0).item() / 3}
