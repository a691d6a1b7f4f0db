"""Multi-level logit distillation: predictions compared sample by sample, between samples, and between classes."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import full_precision, require_positive, require_weight
from angularkd.losses.logit import divergence, require_classes


class MultiLevel(nn.Module):
    """Predictions at several temperatures, compared at three levels (Jin, Wang & Lin, CVPR 2023).

    With P = softmax(Z / T) [batch, classes], and the sum over the temperatures T:

        instance:   T**2 * mean over the batch of KL( P_teacher || P_student )
        batch:      || P_student P_student' - P_teacher P_teacher' ||**2 / batch        which samples look alike
        class:      || P_student' P_student - P_teacher' P_teacher ||**2 / classes      which classes go together

    where ' transposes and the norm is Frobenius'.

    Args:
        temperatures: each above 0. The authors use 2, 3, 4, 5 and 6.
        instance_weight: of the first level, 0 or more, as the other two.
        batch_weight: of the second.
        class_weight: of the third.

    Raises:
        InputError: without a temperature, and for an option out of its range.

    Paper: "Multi-Level Logit Distillation", CVPR 2023. Departures from the authors' code: one view of the images, where
    theirs adds up a weakly and a strongly augmented one; no masks of confident samples and classes, which multiply terms that are
    numbers already there, so that they only halve the weak view's.
    """

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        instance_weight: float = 1.0,
        batch_weight: float = 1.0,
        class_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperatures:
            raise InputError("temperatures is empty: the usual ones are [2, 3, 4, 5, 6]")
        self.temperatures = tuple(require_positive("temperatures", each, usual=4.0) for each in temperatures)
        self.instance_weight = require_weight("instance_weight", instance_weight)
        self.batch_weight = require_weight("batch_weight", batch_weight)
        self.class_weight = require_weight("class_weight", class_weight)

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0. The second level and the third need a whole batch.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.

        Raises:
            InputError: for logits of unequal shapes, and fewer than two classes.
        """
        require_classes(student_logits, teacher_logits)
        student_logits, teacher_logits = widen(student_logits), widen(teacher_logits.detach())
        batch, classes = student_logits.shape
        total = student_logits.new_zeros(())
        with full_precision(student_logits):
            for temperature in self.temperatures:
                log_student = F.log_softmax(student_logits / temperature, dim=1)
                log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
                student, teacher = log_student.exp(), log_teacher.exp()
                instances = temperature**2 * divergence(log_student, log_teacher)
                samples = (student @ student.mT - teacher @ teacher.mT).square().sum() / batch
                together = (student.mT @ student - teacher.mT @ teacher).square().sum() / classes
                total = (
                    total
                    + self.instance_weight * instances
                    + self.batch_weight * samples
                    + self.class_weight * together
                )
        return total
