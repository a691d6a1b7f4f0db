"""DeiT's distillation: the teacher's most probable class as a label, for the student's logits or for those of a head of its own."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.features import widen
from angularkd.losses.checks import require_positive, require_share
from angularkd.losses.logit import divergence, require_classes, soften


class HardDistillation(nn.Module):
    """Cross-entropy of the student's logits with the class that the teacher finds most probable, the mean over the batch, in nats.

        - sum_k y'_k log softmax(z_student)_k,   y' = (1 - label_smoothing) * onehot(argmax z_teacher) + label_smoothing / classes

    Args:
        label_smoothing: the share of a label that goes to all classes alike, in 0..1 (1 excluded). The authors use 0.1.

    Raises:
        InputError: for a label_smoothing out of its range.

    Paper: Touvron et al., "Training data-efficient image transformers & distillation through attention", arXiv 2012.12877,
    equation 3, which is 0.5 times this beside 0.5 times ce. Departures: none.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = require_share("label_smoothing", label_smoothing, usual=0.1)

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; where several are largest, the first is the label.

        Raises:
            InputError: for logits of unequal shapes.
        """
        require_classes(student_logits, teacher_logits, at_least=1)
        labels = teacher_logits.detach().argmax(dim=1)
        return F.cross_entropy(widen(student_logits), labels, label_smoothing=self.label_smoothing)


class TokenDistillation(nn.Module):
    """DeiT's distillation through a token: a second head of the student learns from the teacher, the first from the labels.

        hard:    - log softmax(z_distillation)_(argmax z_teacher),                                      the mean over the batch
        soft:    T**2 * KL( softmax(z_teacher / T) || softmax(z_distillation / T) ),                    the mean over the batch

    Args:
        soft: compare softened predictions in place of the teacher's most probable class.
        temperature: T > 0 of the soft form. The authors use 3.

    Raises:
        InputError: for a temperature that is not positive.

    The student gives two tensors of logits in training, (class head, distillation head), and one in evaluation, their mean, as timm's
    distilled models do (`deit_tiny_distilled_patch16_224`).

    Paper: Touvron et al., arXiv 2012.12877. Departure from the authors' code: their soft form divides by the classes too.
    """

    def __init__(self, soft: bool = False, temperature: float = 3.0) -> None:
        super().__init__()
        self.soft = soft
        self.temperature = require_positive("temperature", temperature, usual=3.0)

    def forward(
        self,
        student_distillation_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_distillation_logits: [batch, classes], those of the student's distillation head.
            teacher_logits: [batch, classes]; they get no gradient.

        Raises:
            InputError: for logits of unequal shapes.
        """
        require_classes(student_distillation_logits, teacher_logits, at_least=1)
        if not self.soft:
            return F.cross_entropy(widen(student_distillation_logits), teacher_logits.detach().argmax(dim=1))
        student = F.log_softmax(soften(student_distillation_logits, self.temperature, False), dim=1)
        teacher = F.log_softmax(soften(teacher_logits.detach(), self.temperature, False), dim=1)
        return divergence(student, teacher) * self.temperature**2
