"""Curriculum temperature (CTKD): a temperature that learns to make distillation harder, more and more as training goes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import full_precision, require_at_least, require_positive, require_weight
from angularkd.losses.embedding import require_choice
from angularkd.losses.logit import require_classes

SCHEDULES = ("cosine", "linear")


class _Curriculum(nn.Module):
    """What both forms share: the range of the temperature, the reversal of its gradient with its schedule, and the divergence."""

    reversal: Tensor

    def __init__(
        self, start: float, span: float, curriculum_epochs: float, largest_lambda: float, schedule: str
    ) -> None:
        super().__init__()
        self.start = require_positive("start", start, usual=1.0)
        self.span = require_weight("span", span)
        self.curriculum_epochs = require_positive("curriculum_epochs", curriculum_epochs, usual=10.0)
        self.largest_lambda = require_weight("largest_lambda", largest_lambda)
        require_choice("schedule", schedule, SCHEDULES)
        self.schedule = schedule
        self.register_buffer("reversal", torch.tensor(float(largest_lambda)), persistent=False)

    def set_epoch(self, epoch: float, epochs: float) -> None:
        """Let lambda follow its schedule: `epoch` epochs, in fractions too, of a run of `epochs` are done."""
        progress = min(epoch / self.curriculum_epochs, 1.0)
        share = (1 - math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else progress
        self.reversal.fill_(self.largest_lambda * share)

    def _in_range(self, theta: Float[Tensor, "*samples"]) -> Float[Tensor, "*samples"]:
        """Return the temperature of theta; the gradient that theta gets is reversed."""
        factor = self.reversal.clone().to(theta.dtype)  # changed in place before the gradient asks for it
        reversed_theta = (1 + factor) * theta.detach() - factor * theta
        return self.start + self.span * torch.sigmoid(reversed_theta)

    def _divergence(self, student: Tensor, teacher: Tensor, temperature: Float[Tensor, "*column"]) -> Float[Tensor, ""]:
        """Return T**2 KL(teacher || student), the mean over the batch; the temperature is one number, or a column."""
        log_student = F.log_softmax(widen(student) / temperature, dim=1)
        log_teacher = F.log_softmax(widen(teacher.detach()) / temperature, dim=1)
        each = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1, keepdim=True)
        return (each * temperature.square()).mean()


class CurriculumTemperature(_Curriculum):
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
    where the authors' changes between epochs alone and begins at 1. This is their global temperature, one number for all samples and
    the one that their code has; `InstanceTemperature` is the paper's other form.
    """

    def __init__(
        self,
        start: float = 1.0,
        span: float = 20.0,
        curriculum_epochs: float = 10.0,
        largest_lambda: float = 1.0,
        schedule: str = "cosine",
    ) -> None:
        super().__init__(start, span, curriculum_epochs, largest_lambda, schedule)
        self.theta = nn.Parameter(torch.ones(()))

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """Return T as it is now; its gradient at `theta` is reversed."""
        return self._in_range(widen(self.theta))

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
        return self._divergence(student_logits, teacher_logits, self.temperature)


class InstanceTemperature(_Curriculum):
    """CTKD with a temperature for each sample, which a perceptron of two layers predicts (Li et al., arXiv 2211.16231).

        theta_i = W2 relu(W1 [z_teacher_i ; z_student_i] + b1) + b2,     a number a sample
        T_i = start + span * sigmoid(theta_i)
        L = mean over the batch of T_i**2 KL( softmax(z_teacher_i / T_i) || softmax(z_student_i / T_i) ),   in nats, >= 0

    The perceptron goes up the loss, its gradient multiplied by -lambda, which rises as in `CurriculumTemperature`; the student goes
    down it.

    Args:
        num_classes: of the logits.
        hidden: width of the perceptron's hidden layer, 1 or more.
        start, span, curriculum_epochs, largest_lambda, schedule: those of `CurriculumTemperature`.

    Raises:
        InputError: for an option out of its range.

    The paper says: two layers, from both predictions to a number a sample, scaled and reversed as the global one; the authors' code has
    the global form alone. So these are ours: the input is logits; the hidden width; a last bias that begins at 1, so that temperatures
    begin near the global one's; and the perceptron's input is detached, so that the student's gradient does not go through its own
    temperature.
    """

    def __init__(
        self,
        num_classes: int,
        hidden: int = 64,
        start: float = 1.0,
        span: float = 20.0,
        curriculum_epochs: float = 10.0,
        largest_lambda: float = 1.0,
        schedule: str = "cosine",
    ) -> None:
        super().__init__(start, span, curriculum_epochs, largest_lambda, schedule)
        require_at_least("num_classes", num_classes, 1, "the logits have one column a class")
        require_at_least("hidden", hidden, 1, "the usual value is 64")
        self.num_classes = num_classes
        self.first, self.second = nn.Linear(2 * num_classes, hidden), nn.Linear(hidden, 1)
        nn.init.ones_(self.second.bias)

    def temperatures(self, student_logits: Tensor, teacher_logits: Tensor) -> Float[Tensor, "batch 1"]:
        """Return each sample's T as a column; the perceptron's gradient is reversed."""
        both = torch.cat([widen(teacher_logits.detach()), widen(student_logits.detach())], dim=1)
        with full_precision(both):
            hidden = F.relu(_linear(self.first, both))
            return self._in_range(_linear(self.second, hidden))

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.

        Raises:
            InputError: for logits of unequal shapes, or of another number of classes than the loss was built for.
        """
        require_classes(student_logits, teacher_logits, at_least=1)
        if student_logits.shape[1] != self.num_classes:
            raise InputError(
                f"the perceptron of temperatures was built for {self.num_classes} classes, got logits of "
                f"{student_logits.shape[1]}: build the loss for these"
            )
        temperature = self.temperatures(student_logits, teacher_logits)
        return self._divergence(student_logits, teacher_logits, temperature)


def _linear(layer: nn.Linear, values: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch out"]:
    """Return the layer's output in the precision of its input."""
    return F.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))
