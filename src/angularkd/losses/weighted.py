"""Weighted soft labels (WSLD): the teacher's predictions count less for samples that the student knows better than the teacher."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.features import widen
from angularkd.losses.checks import require_positive
from angularkd.losses.decoupled import target_classes
from angularkd.losses.logit import Labels, require_classes


class WeightedSoftLabels(nn.Module):
    """Cross-entropy with the teacher's softened predictions, each sample weighted (Zhou et al., arXiv 2102.00650, ICLR 2021).

    With t the target class, p = softmax(z), q = softmax(z / T):

        w = 1 - exp( - log p_student_t / (log p_teacher_t - 1e-7) ),        between 0 and 1, without a gradient
        - T**2 * mean over the batch of w * sum_k q_teacher_k log q_student_k,   in nats, > 0

    The exponent is the ratio of the student's cross-entropy to the teacher's. It is a cross-entropy: equal predictions do not give 0.

    Args:
        temperature: T > 0. The authors use 2.

    Raises:
        InputError: for a temperature that is not positive.

    The authors weigh it by 2.5 beside ce. Departures: none.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = require_positive("temperature", temperature, usual=2.0)

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        labels: Labels,
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar > 0 in nats.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.
            labels: class indices [batch].

        Raises:
            InputError: for soft labels (there is no one target class), logits of unequal shapes, and fewer than two classes.
        """
        require_classes(student_logits, teacher_logits)
        target = target_classes("WSLD", labels, student_logits)
        student, teacher = widen(student_logits), widen(teacher_logits.detach())
        student_entropy = -F.log_softmax(student.detach(), dim=1).gather(1, target)
        teacher_entropy = -F.log_softmax(teacher, dim=1).gather(1, target)
        weights = 1 - (-student_entropy / (teacher_entropy + 1e-7)).exp()
        soft_labels = F.softmax(teacher / self.temperature, dim=1)
        log_predictions = F.log_softmax(student / self.temperature, dim=1)
        return -(weights * soft_labels * log_predictions).sum(dim=1).mean() * self.temperature**2
