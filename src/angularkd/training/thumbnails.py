"""What the labels say without a teacher: the class of the most similar training image, as thumbnails."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from angularkd.training.chance import binomial_tail
from angularkd.types import Batch

SIDE = 8
"""Height and width of a thumbnail in pixels."""
EVIDENCE = 0.01
"""Probability below which a difference of two classifiers on the same images is not put down to these images."""


def nearest_thumbnail_hits(known: Iterable[Batch], asked: Iterable[Batch]) -> Bool[np.ndarray, " images"]:
    """Return for each image asked whether the most similar of the known ones, as thumbnails of 8 x 8 pixels, has its class.

    Args:
        known: batches of training images in 0..1.
        asked: batches of the images to classify.
    """
    images, labels = _thumbnails(known)
    questions, answers = _thumbnails(asked)
    nearest = torch.cdist(questions, images).argmin(dim=1)
    return (labels[nearest] == answers).numpy()


def weak_teacher_note(
    teacher_hits: Bool[np.ndarray, " images"], label_hits: Bool[np.ndarray, " images"], known: int
) -> str | None:
    """Return what to expect of a teacher that knows less than the training labels say; None where it knows more, or as much.

    The difference is judged by McNemar's exact test, on the images that one of the two has right and the other has not.

    Args:
        teacher_hits: whether the teacher has each validation image right.
        label_hits: whether the nearest of the training images has.
        known: how many training images these are.
    """
    better, worse = int((label_hits & ~teacher_hits).sum()), int((teacher_hits & ~label_hits).sum())
    if binomial_tail(better, better + worse, 0.5) >= EVIDENCE:
        return None
    return (
        f"the teacher is weak: it has {teacher_hits.mean():.1%} of the validation images right, and the nearest of {known:,} training "
        f"images, as thumbnails of {SIDE}x{SIDE} pixels, {label_hits.mean():.1%}. A student of it may well end worse than one that is "
        "trained by labels alone (angularkd train): train the teacher for longer, or take another"
    )


def _thumbnails(batches: Iterable[Batch]) -> tuple[Float[Tensor, "images values"], Int64[Tensor, " images"]]:
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        images.append(F.adaptive_avg_pool2d(batch.images.float(), SIDE).flatten(1).cpu())
        labels.append(batch.labels.cpu())
    return torch.cat(images), torch.cat(labels)
