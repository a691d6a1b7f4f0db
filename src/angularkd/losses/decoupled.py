"""Losses on logits that take the target class apart from the rest: DKD and NKD. Both need one class a sample."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import require_class_indices, require_positive, require_weight
from angularkd.losses.logit import Labels, divergence, notes_on_scores, require_classes, soften


class DecoupledKD(nn.Module):
    """Hinton's divergence in two parts, target class against the rest, and among the rest (DKD, arXiv 2203.08679).

    With p = softmax(z / T), t the target class, b = (p_t, 1 - p_t), and r the softmax of z / T over the other classes:

        T**2 * mean over the batch of [ alpha * KL(b_teacher || b_student) + beta * KL(r_teacher || r_student) ]

    in nats, >= 0. With beta = 1 - p_t of the teacher, sample by sample, it would be Hinton's own divergence. Of two classes one is
    left beside the target: the second part (NCKD) is then identically 0, and all is in the first.

    Args:
        alpha: weight of the target part, 0 or more. The authors use 1.
        beta: weight of the rest, 0 or more. The authors use 8 on CIFAR-100 for most pairs, 0.5 on ImageNet.
        temperature: T > 0.
        standardise: replace both sides' logits by their z-scores first, as in `HintonKD`.

    Raises:
        InputError: for an option out of its range.

    Departures from the authors' code: computed from logarithms throughout, where theirs takes the logarithm of a sum
    that rounds to 0 for confident students; no warm-up of the weight (theirs is linear over 20 epochs), which is
    `warmup_epochs` of any loss.
    """

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardise: bool = False
    ) -> None:
        super().__init__()
        self.alpha = require_weight("alpha", alpha)
        self.beta = require_weight("beta", beta)
        self.temperature = require_positive("temperature", temperature, usual=4.0)
        self.standardise = standardise

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        labels: Labels,
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats. Where there are two classes the second part is 0.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.
            labels: class indices [batch].

        Raises:
            InputError: for soft labels (there is no one target class), logits of unequal shapes, and fewer than two classes.
        """
        require_classes(student_logits, teacher_logits)
        target = target_classes("DKD", labels, student_logits)
        student = soften(student_logits, self.temperature, self.standardise)
        teacher = soften(teacher_logits.detach(), self.temperature, self.standardise)
        target_part = divergence(_target_or_not(student, target), _target_or_not(teacher, target))
        rest_part = divergence(_log_softmax_of_rest(student, target), _log_softmax_of_rest(teacher, target))
        return (self.alpha * target_part + self.beta * rest_part) * self.temperature**2

    def notes_on_classes(self, classes: int) -> list[str]:
        """Return what is to be said of so many classes."""
        if classes != 2:
            return []
        alone = [
            "of two classes one is left beside the target: the part among the others (NCKD) is 0, and beta has no effect"
        ]
        return notes_on_scores(classes, self.standardise) + (alone if self.beta else [])


class NKD(nn.Module):
    """The teacher's confidence as weight of the target class, and the rest normalised (arXiv 2303.13005).

    With t the target class, p = softmax(z), and r = softmax of z / T over the classes other than t:

        - mean over the batch of [ p_teacher_t * log p_student_t + gamma * T**2 * sum_k r_teacher_k log r_student_k ]

    in nats. Of two classes one is left beside the target, and the second part is identically 0. It is a cross-entropy: its least
    value, gamma * T**2 times the mean entropy of r_teacher, is reached where p_student_t = 1 and r_student = r_teacher.

    Args:
        gamma: weight of the classes other than the target, 0 or more. The authors use 1.5.
        temperature: T > 0, on the classes other than the target alone. The authors use 1.

    Raises:
        InputError: for an option out of its range.

    Departures from the authors' code: theirs takes soft labels' largest entry for the target, ours refuses them.
    """

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.gamma = require_weight("gamma", gamma)
        self.temperature = require_positive("temperature", temperature, usual=1.0)

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        labels: Labels,
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.
            labels: class indices [batch].

        Raises:
            InputError: for soft labels, logits of unequal shapes, and fewer than two classes.
        """
        require_classes(student_logits, teacher_logits)
        target = target_classes("NKD", labels, student_logits)
        student, teacher = widen(student_logits), widen(teacher_logits.detach())
        log_confidence = F.log_softmax(student, dim=1).gather(1, target)
        target_part = -(F.softmax(teacher, dim=1).gather(1, target) * log_confidence).mean()
        log_rest = _log_softmax_of_rest(student / self.temperature, target)
        rest = _log_softmax_of_rest(teacher / self.temperature, target).exp()
        rest_part = -(rest * log_rest).sum(dim=1).mean()
        return target_part + self.gamma * self.temperature**2 * rest_part

    def notes_on_classes(self, classes: int) -> list[str]:
        """Return what is to be said of so many classes."""
        if classes != 2 or not self.gamma:
            return []
        return ["of two classes one is left beside the target: the part among the others is 0, and gamma has no effect"]


def _target_or_not(logits: Tensor, target: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch 2"]:
    """Return the log-probabilities of the target class, and of all others together."""
    log_probabilities = F.log_softmax(logits, dim=1)
    others = _drop_target(log_probabilities, target).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_probabilities.gather(1, target), others], dim=1)


def _log_softmax_of_rest(logits: Tensor, target: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch rest"]:
    return F.log_softmax(_drop_target(logits, target), dim=1)


def _drop_target(values: Tensor, target: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch rest"]:
    """Return the columns of each row without that of its target class, in their order."""
    columns = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, columns + (columns >= target))


def target_classes(loss: str, labels: Tensor, logits: Tensor) -> Int[Tensor, "batch 1"]:
    """Return class indices as a column. Raises InputError, naming the loss, for soft labels, and for labels that are not the logits'."""
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"{loss} needs one target class a sample and cannot use soft labels, got {found}: "
            f"give class indices [batch], or leave out `mixup`, `cutmix` and {loss}'s weight"
        )
    require_class_indices(labels, logits)
    return labels.long().unsqueeze(1)
