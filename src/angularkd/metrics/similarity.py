"""How alike the features of paired stages are: centred kernel alignment."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from angularkd.features import widen
from angularkd.metrics.observation import Observation


def cka(observation: Observation) -> Float[Tensor, "pairs 3"]:
    """Return, by pair of stages, HSIC(K, L), HSIC(K, K) and HSIC(L, L), times the size of the batch.

    K and L are the Gram matrices of the student's and the teacher's flattened features. HSIC is its unbiased estimator
    on the batch (Nguyen et al., arXiv 2010.15327), which needs four images: a smaller batch adds nothing. Its sum over
    batches weighs each by its size, because the last one may be smaller; the paper has equal batches.
    """
    rows = []
    for student, teacher in zip(observation.student_features, observation.teacher_features, strict=True):
        k, l = _gram(student), _gram(teacher)
        rows.append(torch.stack([_hsic(k, l), _hsic(k, k), _hsic(l, l)]))
    return torch.stack(rows)


def mean_cka(total: Float[Tensor, "pairs 3"], _images: int) -> float:
    """Return the linear centred kernel alignment, HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), as mean over the pairs.

    It is 1 where one stage's features are the other's up to rotation and scale, and near 0 where they have nothing in common.
    It is NaN where no batch had four images, or a stage has the same features for all images.
    """
    both, student, teacher = total.unbind(dim=1)
    return float((both / (student.sqrt() * teacher.sqrt())).mean())


def _gram(features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch batch"]:
    """Return the mean products of the images' features, with a diagonal of zeros.

    The features are centred first, which leaves the unbiased HSIC as it is and preserves its precision in float32.
    """
    rows = widen(features).flatten(1)
    rows = rows - rows.mean(dim=0)
    return (rows @ rows.T / rows.shape[1]).fill_diagonal_(0)


def _hsic(k: Float[Tensor, "batch batch"], l: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    """Return the unbiased HSIC of two Gram matrices with a diagonal of zeros, times the size of the batch.

    (tr(K L) + 1'K1 1'L1 / ((n - 1) (n - 2)) - 2 1'K L1 / (n - 2)) / (n - 3), and 0 for fewer than four images.
    """
    n = len(k)
    if n < 4:
        return k.new_zeros(())
    of_k, of_l = k.sum(dim=0), l.sum(dim=0)
    products = (k * l).sum() + of_k.sum() * of_l.sum() / ((n - 1) * (n - 2)) - 2 * (of_k @ of_l) / (n - 2)
    return products / (n - 3)
