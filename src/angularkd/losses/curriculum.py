"""Curriculum temperature (CTKD): a temperature that learns to make distillation harder, more and more as training goes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.features import widen
from angularkd.losses.checks import require_positive, require_weight
from angularkd.losses.embedding import require_choice
from angularkd.losses.logit import divergence, require_classes

SCHEDULES = ("cosine", "linear")


class CurriculumTemperature(nn.Module):
    """Hinton's divergence at a learned temperature, whose gradient is reversed (Li et al., arXiv 2211.16231, AAAI 2023).

        T = start + span * sigmoid(theta)
        L = T**2 * mean over the batch of KL( softmax(z_teacher / T) || softmax(z_student / T) ),   in nats, >= 0

    The student goes down the loss; theta, which begins at 1, goes up it: its gradient is multiplied by -lambda, which rises from 0 to
    `largest_lambda` over the first `curriculum_epochs`, in a half cosine or linearly:

        lambda = largest_lambda * (1 - cos(pi * min(epoch / curriculum_epochs, 1))) / 2
        lambda = largest_lambda * min(epoch / curriculum_epochs, 1)

    Args:
        start: the least temperature, above 0. The authors use 1.
        span: how far above it T may rise, 0 or more. The authors use 20.
        curriculum_epochs: above 0. The authors use 10.
        largest_lambda: 0 or more; 0 keeps the temperature where it begins. The authors use 1.
        schedule: "cosine" or "linear".

    Raises:
        InputError: for an option out of its range.

    lambda follows `set_epoch`, which a `Distiller` passes on; until that is called it is the largest one. It takes fractions of epochs,
    where the authors' changes between epochs alone and begins at 1. Departure: only their global temperature, one number for all samples,
    which is the one that their code has; the paper's other form predicts one a sample.
    """

    reversal: Tensor

    def __init__(
        self,
        start: float = 1.0,
        span: float = 20.0,
        curriculum_epochs: float = 10.0,
        largest_lambda: float = 1.0,
        schedule: str = "cosine",
    ) -> None:
        super().__init__()
        self.start = require_positive("start", start, usual=1.0)
        self.span = require_weight("span", span)
        self.curriculum_epochs = require_positive("curriculum_epochs", curriculum_epochs, usual=10.0)
        self.largest_lambda = require_weight("largest_lambda", largest_lambda)
        require_choice("schedule", schedule, SCHEDULES)
        self.schedule = schedule
        self.theta = nn.Parameter(torch.ones(()))
        self.register_buffer("reversal", torch.tensor(float(largest_lambda)), persistent=False)

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """Return T as it is now; its gradient at `theta` is reversed."""
        theta, factor = (
            widen(self.theta),
            widen(self.reversal.clone()),
        )  # changed in place before the gradient asks for it
        reversed_theta = (1 + factor) * theta.detach() - factor * theta
        return self.start + self.span * torch.sigmoid(reversed_theta)

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let lambda follow its schedule: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        progress = min(epoch / self.curriculum_epochs, 1.0)
        share = (1 - math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else progress
        self.reversal.fill_(self.largest_lambda * share)

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.

        Raises:
            InputError: for logits of unequal shapes.
        """
        require_classes(student_logits, teacher_logits, at_least=1)
        temperature = self.temperature
        student = F.log_softmax(widen(student_logits) / temperature, dim=1)
        teacher = F.log_softmax(widen(teacher_logits.detach()) / temperature, dim=1)
        return divergence(student, teacher) * temperature.square()
