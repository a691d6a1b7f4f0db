"""Metrics of the classes that a model predicts: shares in 0..1, and which class is taken for which."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from angularkd.metrics.observation import Observation


def accuracy(observation: Observation) -> Int[Tensor, ""]:
    """Return the number of images whose predicted class is their own."""
    return observation.hits.sum()


def top5(observation: Observation) -> Int[Tensor, ""]:
    """Return the number of images whose own class is among the five most probable."""
    return (observation.probabilities.topk(5).indices == observation.labels[:, None]).sum()


def found_by_class(observation: Observation) -> Int[Tensor, "2 classes"]:
    """Return, by class, the number of its images that are predicted as such, and the number of all its images."""
    onehot = observation.onehot
    return torch.stack([(onehot * observation.hits[:, None]).sum(dim=0), onehot.sum(dim=0)])


def mean_recall(total: Int[Tensor, "2 classes"], _images: int) -> float:
    """Return the mean, over the classes that have images, of the share of them that is predicted as such."""
    found, all_of_class = total
    return float((found / all_of_class)[all_of_class > 0].mean())


def recall_by_class(total: Int[Tensor, "2 classes"], _images: int) -> list[float | None]:
    """Return of each class the share of its images that is predicted as such, None for a class without images."""
    return [found / images if images else None for found, images in total.T.tolist()]


def confusion(observation: Observation) -> Int[Tensor, "classes classes"]:
    """Return how many images of each class, by row, are predicted as each class, by column."""
    classes = observation.num_classes
    pairs = observation.labels * classes + observation.predicted
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def as_lists(total: Int[Tensor, "classes classes"], _images: int) -> list[list[int]]:
    """Return the rows of what was added up."""
    return total.tolist()
