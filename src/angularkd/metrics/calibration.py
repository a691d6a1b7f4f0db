"""Metrics of the probabilities that a model gives: how good they are, and whether they mean what they say."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from angularkd.metrics.observation import Observation

BINS = 15
"""Number of bins of the calibration error: (0, 1/15], ..., (14/15, 1]."""


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
    in_bin = F.one_hot((confidence * BINS).ceil().long().clamp(1, BINS) - 1, BINS)
    return (in_bin * (confidence - observation.hits.float())[:, None]).sum(dim=0)


def calibration_error(total: Float[Tensor, " bins"], images: int) -> float:
    """Return the expected calibration error, in 0..1: the sum over the bins of |sum of (confidence - hit)| / images."""
    return float(total.abs().sum()) / images
