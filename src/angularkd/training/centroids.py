"""What a teacher without classes is worth: how many validation images lie nearest to the mean embedding of their own class."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from angularkd.types import Batch

Embed = Callable[[Tensor], Tensor]
"""From images in 0..1 to embeddings [batch, dim], or to feature maps, which are averaged over their positions."""


@torch.no_grad()
def nearest_centroid_accuracy(embed: Embed, known: Iterable[Batch], asked: Iterable[Batch], num_classes: int) -> float:
    """Return the share of images whose class has the mean direction, of embeddings of other images, that is nearest by cosine.

    A class without images among the known ones is never the nearest.

    Args:
        embed: from images in 0..1 to embeddings [batch, dim].
        known: batches from which each class's mean is taken.
        asked: batches of the images to classify.
        num_classes: of the data.
    """
    sums: Tensor | None = None
    for batch in known:
        directions = _directions(embed, batch.images)
        if sums is None:
            sums = directions.new_zeros(num_classes, directions.shape[1])
        sums.index_add_(0, batch.labels.to(directions.device), directions)
    assert sums is not None, "there are training images"
    centroids = F.normalize(sums, dim=1)
    absent = sums.abs().sum(dim=1) == 0
    right, count = 0, 0
    for batch in asked:
        nearness = (_directions(embed, batch.images) @ centroids.mT).masked_fill(absent, -torch.inf)
        right += int((nearness.argmax(dim=1) == batch.labels.to(nearness.device)).sum())
        count += len(batch.labels)
    return right / count


def _directions(embed: Embed, images: Tensor) -> Float[Tensor, "batch dim"]:
    embedding = embed(images).float()
    return F.normalize(embedding.flatten(2).mean(dim=2) if embedding.ndim > 2 else embedding, dim=1)
