"""Losses on logits: cross-entropy with the labels, and distillation of the teacher's predictions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features.attention import widen

Labels = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Class indices, or soft labels: one distribution over the classes a sample."""


class CrossEntropy(nn.Module):
    """Cross-entropy of the student's logits with the labels, mean over the batch, in nats.

        - sum_k y'_k log softmax(z)_k,   y' = (1 - label_smoothing) * y + label_smoothing / classes

    Labels are class indices [batch], y being their one-hot vectors, or soft labels y [batch, classes].
    Label smoothing: Szegedy et al., arXiv 1512.00567.

    Raises InputError for a label_smoothing outside 0..1, and for labels that are neither of the two.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing must lie in 0..1 (1 excluded), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, student_logits: Float[Tensor, "batch classes"], labels: Labels) -> Float[Tensor, ""]:
        logits = widen(student_logits)
        soft = labels.is_floating_point()
        if labels.ndim != (2 if soft else 1):
            raise InputError(
                "labels must be whole numbers [batch] or probabilities [batch, classes], "
                f"got {labels.dtype} {list(labels.shape)}: convert one-hot vectors to a float type"
            )
        target = labels.to(logits.dtype) if soft else labels.long()
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)


class HintonKD(nn.Module):
    """Divergence of the student's softened predictions from the teacher's (Hinton, Vinyals, Dean, arXiv 1503.02531).

        T**2 * mean over the batch of KL( softmax(z_teacher / T) || softmax(z_student / T) ),   in nats, >= 0

    Args:
        temperature: T.
        standardise: replace both sides' logits by their z-scores over the classes of each sample before dividing by
            T (Sun, Ren, Li, Wang, Cao, arXiv 2403.01549): the student then need not match the teacher's scale.
            The deviation is the unbiased one, plus 1e-7, as in the authors' code.

    Logits are [batch, classes]. The teacher's side carries no gradient.

    Raises InputError for a temperature that is not positive, for logits of unequal shapes, and for fewer than two
    classes with standardise.

    Departure from the authors' code of 2403.01549: logits that are all equal have no deviation, and are left unscaled,
    where the gradient there is NaN.
    """

    def __init__(self, temperature: float = 4.0, standardise: bool = False) -> None:
        super().__init__()
        self.temperature = _positive("temperature", temperature, usual=4.0)
        self.standardise = standardise

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        _check_shapes(student_logits, teacher_logits, classes=2 if self.standardise else 1)
        student = F.log_softmax(_soften(student_logits, self.temperature, self.standardise), dim=1)
        teacher = F.log_softmax(_soften(teacher_logits.detach(), self.temperature, self.standardise), dim=1)
        return _divergence(student, teacher) * self.temperature**2


class DecoupledKD(nn.Module):
    """Hinton's divergence in two parts, target class against the rest, and among the rest (DKD, arXiv 2203.08679).

    With p = softmax(z / T), t the target class, b = (p_t, 1 - p_t), and r the softmax of z / T over the other classes:

        T**2 * mean over the batch of [ alpha * KL(b_teacher || b_student) + beta * KL(r_teacher || r_student) ]

    in nats, >= 0. With beta = 1 - p_t of the teacher, sample by sample, it would be Hinton's own divergence.

    Args:
        alpha: weight of the target part. The authors use 1.
        beta: weight of the rest. The authors use 8 on CIFAR-100 for most pairs, 0.5 on ImageNet.
        temperature: T.
        standardise: as in `HintonKD`.

    Logits are [batch, classes], labels class indices [batch]. The teacher's side carries no gradient. Where there are
    two classes the second part is 0.

    Raises InputError for soft labels (there is no one target class), for fewer than two classes, for a temperature that
    is not positive, for negative weights, and for logits of unequal shapes.

    Departures from the authors' code: computed from logarithms throughout, where theirs takes the logarithm of a sum
    that rounds to 0 for confident students; no warm-up of the weight (theirs is linear over 20 epochs), which is
    the training loop's business.
    """

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardise: bool = False
    ) -> None:
        super().__init__()
        self.alpha = _weight("alpha", alpha)
        self.beta = _weight("beta", beta)
        self.temperature = _positive("temperature", temperature, usual=4.0)
        self.standardise = standardise

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        labels: Labels,
    ) -> Float[Tensor, ""]:
        _check_shapes(student_logits, teacher_logits, classes=2)
        target = _target_classes("DKD", labels)
        student = _soften(student_logits, self.temperature, self.standardise)
        teacher = _soften(teacher_logits.detach(), self.temperature, self.standardise)
        target_part = _divergence(_target_or_not(student, target), _target_or_not(teacher, target))
        rest_part = _divergence(_log_softmax_of_rest(student, target), _log_softmax_of_rest(teacher, target))
        return (self.alpha * target_part + self.beta * rest_part) * self.temperature**2


class NKD(nn.Module):
    """The teacher's confidence as weight of the target class, and the rest normalised (arXiv 2303.13005).

    With t the target class, p = softmax(z), and r = softmax of z / T over the classes other than t:

        - mean over the batch of [ p_teacher_t * log p_student_t + gamma * T**2 * sum_k r_teacher_k log r_student_k ]

    in nats. It is a cross-entropy: its least value, gamma * T**2 times the mean entropy of r_teacher, is reached
    where p_student_t = 1 and r_student = r_teacher.

    Args:
        gamma: weight of the classes other than the target. The authors use 1.5.
        temperature: T, on the classes other than the target alone. The authors use 1.

    Logits are [batch, classes], labels class indices [batch]. The teacher's side carries no gradient.

    Raises InputError for soft labels, for fewer than two classes, for a temperature that is not positive, for a
    negative gamma, and for logits of unequal shapes.

    Departures from the authors' code: theirs takes soft labels' largest entry for the target, ours refuses them.
    """

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.gamma = _weight("gamma", gamma)
        self.temperature = _positive("temperature", temperature, usual=1.0)

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        labels: Labels,
    ) -> Float[Tensor, ""]:
        _check_shapes(student_logits, teacher_logits, classes=2)
        target = _target_classes("NKD", labels)
        student, teacher = widen(student_logits), widen(teacher_logits.detach())
        log_confidence = F.log_softmax(student, dim=1).gather(1, target)
        target_part = -(F.softmax(teacher, dim=1).gather(1, target) * log_confidence).mean()
        log_rest = _log_softmax_of_rest(student / self.temperature, target)
        rest = _log_softmax_of_rest(teacher / self.temperature, target).exp()
        rest_part = -(rest * log_rest).sum(dim=1).mean()
        return target_part + self.gamma * self.temperature**2 * rest_part


class DIST(nn.Module):
    """Correlation of predictions, along the classes and along the batch (Huang, You, Wang, Qian, Xu, arXiv 2205.10536).

    With Y = softmax(Z / T) [batch, classes], and a' = a - mean a:

        pearson(a, b) = <a', b'> / (||a'|| ||b'|| + eps)
        inter = 1 - mean over the rows of pearson(Y_student[i, :], Y_teacher[i, :])
        intra = 1 - mean over the columns of pearson(Y_student[:, j], Y_teacher[:, j])
        T**2 * (beta * inter + gamma * intra),   within 0 .. 2 * (beta + gamma) * T**2

    Args:
        beta: weight of the relation between the classes of a sample.
        gamma: weight of the relation between the samples of a batch.
        temperature: T.
        eps: added to the product of the norms. A class that hardly varies within the batch counts as uncorrelated,
            so that identical predictions give 0 only as far as eps is small beside their variation.

    The defaults are those of the authors' code. Logits are [batch, classes]. It needs a whole batch: each column is
    compared over its samples.
    The teacher's side carries no gradient.

    Raises InputError for a batch of one sample (nothing varies along it), for fewer than two classes, for a temperature
    that is not positive, for negative weights, and for logits of unequal shapes.
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__()
        self.beta = _weight("beta", beta)
        self.gamma = _weight("gamma", gamma)
        self.temperature = _positive("temperature", temperature, usual=1.0)
        self.eps = _positive("eps", eps, usual=1e-8)

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        _check_shapes(student_logits, teacher_logits, classes=2)
        if student_logits.shape[0] < 2:
            raise InputError(
                "DIST correlates predictions along the batch and needs at least 2 samples, got 1: "
                "use a larger batch, or drop the last one"
            )
        student = F.softmax(widen(student_logits) / self.temperature, dim=1)
        teacher = F.softmax(widen(teacher_logits.detach()) / self.temperature, dim=1)
        inter = 1 - self._correlation(student, teacher, dim=1).mean()
        intra = 1 - self._correlation(student, teacher, dim=0).mean()
        return (self.beta * inter + self.gamma * intra) * self.temperature**2

    def _correlation(self, student: Tensor, teacher: Tensor, dim: int) -> Float[Tensor, " others"]:
        student = student - student.mean(dim=dim, keepdim=True)
        teacher = teacher - teacher.mean(dim=dim, keepdim=True)
        norms: Tensor = torch.linalg.vector_norm(student, dim=dim) * torch.linalg.vector_norm(teacher, dim=dim)
        return (student * teacher).sum(dim=dim) / (norms + self.eps)


def standard_scores(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Each sample's logits minus their mean, over their unbiased standard deviation + 1e-7; equal logits become 0."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(logits.shape[1] - 1)
    return centred / torch.where(deviation > 0, deviation + 1e-7, 1.0)


def _soften(logits: Tensor, temperature: float, standardise: bool) -> Float[Tensor, "batch classes"]:
    wide = widen(logits)
    return (standard_scores(wide) if standardise else wide) / temperature


def _divergence(student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """KL(teacher || student) of log-probabilities [batch, outcomes], mean over the batch."""
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _target_or_not(logits: Tensor, target: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch 2"]:
    """Log-probabilities of the target class, and of all others together."""
    log_probabilities = F.log_softmax(logits, dim=1)
    others = _drop_target(log_probabilities, target).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_probabilities.gather(1, target), others], dim=1)


def _log_softmax_of_rest(logits: Tensor, target: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch rest"]:
    return F.log_softmax(_drop_target(logits, target), dim=1)


def _drop_target(values: Tensor, target: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch rest"]:
    """The columns of each row without that of its target class, in their order."""
    columns = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, columns + (columns >= target))


def _target_classes(name: str, labels: Tensor) -> Int[Tensor, "batch 1"]:
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"{name} needs one target class a sample and cannot use soft labels, got {labels.dtype} "
            f"{list(labels.shape)}: give class indices [batch], or leave out mixup, CutMix and {name}'s weight"
        )
    return labels.long().unsqueeze(1)


def _check_shapes(student: Tensor, teacher: Tensor, classes: int) -> None:
    if student.shape != teacher.shape:
        raise InputError(
            f"the student's logits are {list(student.shape)} and the teacher's {list(teacher.shape)}: "
            "give both the same samples and classes, or leave out the losses on logits"
        )
    if student.shape[1] < classes:
        raise InputError(
            f"this loss compares classes and needs at least {classes}, got {student.shape[1]}: use ce alone"
        )


def _positive(option: str, value: float, usual: float) -> float:
    if not value > 0:
        raise InputError(f"{option} must be positive, got {value}: the usual value is {usual:g}")
    return value


def _weight(option: str, value: float) -> float:
    if not value >= 0:
        raise InputError(f"{option} is a weight and must not be negative, got {value}: 0 leaves that part out")
    return value
