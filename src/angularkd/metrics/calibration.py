"""Metrics of the probabilities that a model gives: how good they are, and whether they mean what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from angularkd.metrics.metric import Sums
from angularkd.metrics.observation import Observation

BINS = 15
"""Number of bins of the calibration error; those of equal width are (0, 1/15], ..., (14/15, 1]."""

Curve = dict[str, list[Any]]
"""A reliability curve, a value a bin: `low` and `high` its bounds, `confidence` and `accuracy` the means in it (None for a bin without
images), `count` the number of its images."""


def nll(observation: Observation) -> Float[Tensor, ""]:
    """Return the sum of the negative log-likelihoods of the images' own classes, in nats."""
    return -observation.log_probabilities.gather(1, observation.labels[:, None]).sum()


def brier(observation: Observation) -> Float[Tensor, ""]:
    """Return the sum of the Brier scores, each in 0..2.

    The score of an image is the sum over the classes of (probability - onehot)**2 (Brier, 1950).
    """
    return (observation.probabilities - observation.onehot).square().sum()


def ece(observation: Observation) -> Float[Tensor, " bins"]:
    """Return, by bin of confidence, the sum of confidence - hit (Guo et al., arXiv 1706.04599)."""
    confidence = observation.confidence
    in_bin = F.one_hot(_bin(confidence, BINS), BINS)
    return (in_bin * (confidence - observation.hits.float())[:, None]).sum(dim=0)


def calibration_error(total: Float[Tensor, " bins"], images: int) -> float:
    """Return the expected calibration error, in 0..1: the sum over the bins of |sum of (confidence - hit)| / images."""
    return float(total.abs().sum()) / images


def confidences(observation: Observation) -> Float[Tensor, "batch 2"]:
    """Return of each image its confidence, and 1 for a hit or 0."""
    return torch.stack([observation.confidence, observation.hits.float()], dim=1)


def mass_calibration_error(rows: Float[Tensor, "images 2"], images: int) -> float:
    """Return the calibration error over bins of equally many images (Nixon et al., arXiv 1904.01685), in 0..1."""
    confidence, hits = _sorted(rows)
    gaps = [part.sum() for part in np.array_split(confidence - hits, BINS)]
    return float(np.abs(gaps).sum()) / images


def both_curves(rows: Float[Tensor, "images 2"], _images: int) -> dict[str, Curve]:
    """Return the reliability curves of `reliability`, from what `confidences` returned for all images."""
    return reliability(rows[:, 0], rows[:, 1] > 0)


def reliability(
    confidence: Float[Tensor, " images"], hits: Bool[Tensor, " images"], bins: int = BINS
) -> dict[str, Curve]:
    """Return the reliability curves: how often a model is right where it is how confident.

    Args:
        confidence: the largest probability of each image.
        hits: whether its class was predicted.
        bins: their number.

    Returns:
        The curve over bins of equal width as "equal_width", and over bins of equally many images as "equal_mass".
    """
    ordered, right = _sorted(torch.stack([confidence, hits.to(confidence.dtype)], dim=1))
    wide = _bin(torch.from_numpy(ordered), bins).numpy()
    borders = np.searchsorted(wide, np.arange(1, bins))
    by_width = zip(np.split(ordered, borders), np.split(right, borders), strict=True)
    edges = np.linspace(0, 1, bins + 1).tolist()
    by_mass = list(zip(np.array_split(ordered, bins), np.array_split(right, bins), strict=True))
    return {
        "equal_width": {"low": edges[:-1], "high": edges[1:], **_means(list(by_width))},
        "equal_mass": {
            "low": [float(part[0]) if len(part) else None for part, _ in by_mass],
            "high": [float(part[-1]) if len(part) else None for part, _ in by_mass],
            **_means(by_mass),
        },
    }


def reliability_of(
    logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], temperature: float = 1.0
) -> dict[str, Curve]:
    """Return the reliability curves of logits, divided by a temperature first."""
    seen = Observation(logits.shape[1], labels=labels, logits=logits.float() / temperature)
    return reliability(seen.confidence, seen.hits)


def calibrated(sums: Sums) -> Sums:
    """Return the sums of the logits divided by the temperature, from those of logits."""

    def of_calibrated(observation: Observation) -> Tensor:
        return sums(observation.calibrated)

    return of_calibrated


def _bin(confidence: Tensor, bins: int) -> Tensor:
    return (confidence * bins).ceil().long().clamp(1, bins) - 1


def _sorted(rows: Float[Tensor, "images 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences in rising order with their hits; those of equal ones are spread evenly, so that the order of images is nothing."""
    confidence, hits = rows.double().cpu().numpy().T
    values, which, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    rates = np.bincount(which, weights=hits, minlength=len(values)) / counts
    return np.repeat(values, counts), np.repeat(rates, counts)


def _means(parts: list[tuple[np.ndarray, np.ndarray]]) -> Curve:
    return {
        "confidence": [float(confidence.mean()) if len(confidence) else None for confidence, _ in parts],
        "accuracy": [float(right.mean()) if len(right) else None for _, right in parts],
        "count": [len(right) for _, right in parts],
    }
