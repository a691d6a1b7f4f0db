"""Metrics of how many images are still classified rightly when they are corrupted."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from angularkd.metrics.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from angularkd.metrics.observation import Observation


def corrupted_hits(observation: Observation) -> Int[Tensor, "corruptions severities"]:
    """Return the number of images whose class is predicted although they are corrupted, by corruption and severity."""
    rows = []
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            images = corrupt(observation.images, observation.indices, name, severity)
            rows.append((observation.predict(images).argmax(dim=1) == observation.labels).sum())
    return torch.stack(rows).view(len(CORRUPTIONS), len(SEVERITIES))


def mean_corrupted_accuracy(total: Int[Tensor, "corruptions severities"], images: int) -> float:
    """Return the accuracy as mean over all corruptions and severities, in 0..1."""
    return float(total.double().mean()) / images


def accuracy_by_corruption(total: Int[Tensor, "corruptions severities"], images: int) -> dict[str, list[float]]:
    """Return of each corruption the accuracy by severity, 1 to 5."""
    return {name: [hits / images for hits in row] for name, row in zip(CORRUPTIONS, total.tolist(), strict=True)}
