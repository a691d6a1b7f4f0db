"""Metrics of how near a model's predictions are to its teacher's (Stanton et al., arXiv 2106.05945)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from angularkd.metrics.observation import Observation


def agreement(observation: Observation) -> Int[Tensor, ""]:
    """Return the number of images for which model and teacher predict the same class."""
    return (observation.predicted == observation.teacher_logits.argmax(dim=1)).sum()


def divergence(observation: Observation) -> Float[Tensor, ""]:
    """Return the sum of KL(teacher || model) of the predictions, in nats."""
    teacher = F.log_softmax(observation.teacher_logits.float(), dim=1)
    return F.kl_div(observation.log_probabilities, teacher, reduction="sum", log_target=True)
