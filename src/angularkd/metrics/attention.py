"""Metrics of how alike the attention of paired stages is: where it lies, and the angles that AMD makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from angularkd.features import PowerMap, match_sizes, normalise, to_map
from angularkd.metrics.observation import Observation

TOP_SHARE = 0.2
"""Share of the positions of a map that are its top."""
MARGIN, EPS = 1.35, 1e-6
"""The angular margin of the paper (arXiv 2302.14130), and what is added to a map's norm there."""
PARTS = ("theta", "positive", "negative")
FINE = 3600
"""Bins of 0..180 degrees by which angles are counted."""
COARSE = 360
"""Bins of 0..180 degrees that are returned."""

Maps = Float[Tensor, "batch height width"]


def attention_similarity(observation: Observation) -> Float[Tensor, ""]:
    """Return the sum over images of the cosine of the two power maps of a pair, as mean over the pairs, each in 0..1.

    A power map is the sum over the channels of the squared features, [batch, height, width]; the larger of the two is
    pooled to the size of the smaller.
    """
    pairs = _pairs(observation.student_features, observation.teacher_features)
    return torch.stack([F.cosine_similarity(s.flatten(1), t.flatten(1)).sum() for s, t in pairs]).mean()


def attention_overlap(observation: Observation) -> Float[Tensor, ""]:
    """Return the sum over images of the overlap of the two power maps of a pair, as mean over the pairs, each in 0..1.

    The overlap is |A and B| / |A or B| of the positions A and B where either map is in its top: no less than the value that TOP_SHARE of
    its positions reach.
    """
    pairs = _pairs(observation.student_features, observation.teacher_features)
    overlaps = []
    for student, teacher in pairs:
        one, other = _top(student), _top(teacher)
        overlaps.append(((one & other).sum(dim=1) / (one | other).sum(dim=1)).sum())
    return torch.stack(overlaps).mean()


def angles(observation: Observation) -> Int[Tensor, "pairs parts 2 bins"]:
    """Return how often each angle occurs, by pair of stages and by part, of student and teacher."""
    return _counted(observation.student_features, observation.teacher_features)


def angular_distance(total: Int[Tensor, "pairs parts 2 bins"], _images: int) -> float:
    """Return the Wasserstein-1 distance of the student's and the teacher's distribution of theta, in degrees, as mean over the pairs."""
    return float(np.mean([_distance(*pair[0].double().cpu().numpy()) for pair in total]))


def distributions(total: Int[Tensor, "pairs parts 2 bins"], _images: int) -> dict[str, Any]:
    """Return the histograms of `angular_histograms`, from what `angles` returned for all images."""
    pairs = [
        {name: _histograms(counts) for name, counts in zip(PARTS, pair.double().cpu().numpy(), strict=True)}
        for pair in total
    ]
    return {"edges": np.linspace(0, 180, COARSE + 1).tolist(), "pairs": pairs}


def angular_histograms(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> dict[str, Any]:
    """Return how the angles of AMD are distributed over positions and images, of student and teacher.

    For a power map P, Q = P / (||P||_F + 1e-6), the angle is theta = arccos(Q); the angle of the positive part, whose cosine is psi / s,
    is 1.35 theta; that of the negative part, whose cosine is n / s = 1 - Q, is arccos(1 - Q).

    Args:
        student_features: one tensor a pair of stages, features [batch, channel, height, width] or power maps [batch, height, width].
        teacher_features: the same of the teacher; the larger map of a pair is pooled to the size of the smaller.

    Returns:
        `edges`: of the bins, in degrees; `pairs`: a dictionary a pair, which has for "theta", "positive" and "negative" the shares of
        "student" and "teacher" by bin, and their Wasserstein-1 "distance" in degrees.
    """
    return distributions(_counted(student_features, teacher_features), 0)


def _pairs(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Iterator[tuple[Maps, Maps]]:
    """Yield the power maps of each pair, at one size."""
    power_map = PowerMap()
    for student, teacher in zip(student_features, teacher_features, strict=True):
        yield match_sizes(to_map(student, power_map), to_map(teacher, power_map))


def _top(maps: Maps) -> Tensor:
    flat = maps.flatten(1)
    count = math.ceil(TOP_SHARE * flat.shape[1])
    return flat >= flat.topk(count, dim=1).values[:, -1:]


def _counted(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Int[Tensor, "pairs parts 2 bins"]:
    pairs = _pairs(student_features, teacher_features)
    rows = [[_counts(normalise(maps, EPS)) for maps in pair] for pair in pairs]
    return torch.stack([torch.stack(row, dim=1) for row in rows])


def _counts(attention_map: Maps) -> Int[Tensor, "parts bins"]:
    """Return how often each angle occurs, by part."""
    theta = torch.arccos(attention_map)
    parts = (theta, MARGIN * theta, torch.arccos(1 - attention_map))
    bins = [(part.flatten() * (FINE / math.pi)).long().clamp(0, FINE - 1) for part in parts]
    return torch.stack([torch.bincount(part, minlength=FINE) for part in bins])


def _distance(student: np.ndarray, teacher: np.ndarray) -> float:
    from scipy.stats import wasserstein_distance  # half a second that only who asks for it waits for

    centres = (np.arange(FINE) + 0.5) * (180 / FINE)
    return float(wasserstein_distance(centres, centres, student, teacher))


def _histograms(counts: np.ndarray) -> dict[str, Any]:
    student, teacher = (row.reshape(COARSE, -1).sum(axis=1) / row.sum() for row in counts)
    return {"student": student.tolist(), "teacher": teacher.tolist(), "distance": _distance(*counts)}
