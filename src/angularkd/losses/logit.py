"""Losses on logits: cross-entropy with the labels, and distillation of the teacher's predictions as a whole (KD, DIST)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import (
    require_class_indices,
    require_logits,
    require_positive,
    require_samples,
    require_share,
    require_weight,
)

Labels = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Class indices, or soft labels: one distribution over the classes a sample."""


class CrossEntropy(nn.Module):
    """Cross-entropy of the student's logits with the labels, the mean over the batch, in nats.

        - sum_k y'_k log softmax(z)_k,   y' = (1 - label_smoothing) * y + label_smoothing / classes

    where y is the one-hot vector of a class index, or a soft label.

    Args:
        label_smoothing: the share of a label that goes to all classes alike, in 0..1 (1 excluded).

    Raises:
        InputError: for a label_smoothing out of its range.

    Paper of the label smoothing: Szegedy et al., arXiv 1512.00567. Departures: none.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = require_share("label_smoothing", label_smoothing, usual=0.1)

    def forward(self, student_logits: Float[Tensor, "batch classes"], labels: Labels) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_logits: [batch, classes].
            labels: class indices [batch], or soft labels [batch, classes].

        Raises:
            InputError: for labels that are neither of the two.
        """
        require_logits("student", student_logits)
        logits = widen(student_logits)
        if not isinstance(labels, Tensor):
            raise InputError(f"labels must be a tensor, got {type(labels).__name__}: convert them by torch.as_tensor")
        soft = labels.is_floating_point()
        if labels.ndim != (2 if soft else 1):
            raise InputError(
                "labels must be whole numbers [batch] or probabilities [batch, classes], "
                f"got {labels.dtype} {list(labels.shape)}: convert one-hot vectors to a float type"
            )
        if not soft:
            require_class_indices(labels, logits, ignored=-100)
        elif labels.shape != logits.shape:
            raise InputError(
                f"soft labels are {list(labels.shape)} and logits {list(logits.shape)}: give a share of each class for each sample"
            )
        target = labels.to(logits.dtype) if soft else labels.long()
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)


class HintonKD(nn.Module):
    """Divergence of the student's softened predictions from the teacher's (Hinton, Vinyals, Dean, arXiv 1503.02531).

        T**2 * mean over the batch of KL( softmax(z_teacher / T) || softmax(z_student / T) ),   in nats, >= 0

    Args:
        temperature: T > 0.
        standardise: replace both sides' logits by their z-scores over the classes of each sample before dividing by
            T (Sun, Ren, Li, Wang, Cao, arXiv 2403.01427): the student then need not match the teacher's scale.
            The deviation is the unbiased one, plus 1e-7, as in the authors' code.

    Raises:
        InputError: for a temperature that is not positive.

    Departure from the authors' code of 2403.01427: logits that are all equal have no deviation, and are left unscaled,
    where the gradient there is NaN. Of two classes the z-scores are constants but for their sign, so standardise leaves no gradient.
    """

    def __init__(self, temperature: float = 4.0, standardise: bool = False) -> None:
        super().__init__()
        self.temperature = require_positive("temperature", temperature, usual=4.0)
        self.standardise = standardise

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 in nats.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.

        Raises:
            InputError: for logits of unequal shapes, and for fewer than two classes with standardise.
        """
        require_classes(student_logits, teacher_logits, at_least=2 if self.standardise else 1)
        student = F.log_softmax(soften(student_logits, self.temperature, self.standardise), dim=1)
        teacher = F.log_softmax(soften(teacher_logits.detach(), self.temperature, self.standardise), dim=1)
        return divergence(student, teacher) * self.temperature**2

    def notes_on_classes(self, classes: int) -> list[str]:
        """Return what is to be said of so many classes."""
        return notes_on_scores(classes, self.standardise)


class DIST(nn.Module):
    """Correlation of predictions, along the classes and along the batch (Huang, You, Wang, Qian, Xu, arXiv 2205.10536).

    With Y = softmax(Z / T) [batch, classes], and a' = a - mean a:

        pearson(a, b) = <a', b'> / (||a'|| ||b'|| + eps)
        inter = 1 - mean over the rows of pearson(Y_student[i, :], Y_teacher[i, :])
        intra = 1 - mean over the columns of pearson(Y_student[:, j], Y_teacher[:, j])
        T**2 * (beta * inter + gamma * intra),   within 0 .. 2 * (beta + gamma) * T**2

    Args:
        beta: weight of the relation between the classes of a sample, 0 or more.
        gamma: weight of the relation between the samples of a batch, 0 or more.
        temperature: T > 0.
        eps: added to the product of the norms. A class that hardly varies within the batch counts as uncorrelated,
            so that identical predictions give 0 only as far as eps is small beside their variation.

    Raises:
        InputError: for an option out of its range.

    The defaults are those of the authors' code. Departures: none. Of two classes, inter is constant but for its sign: it has no gradient.
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__()
        self.beta = require_weight("beta", beta)
        self.gamma = require_weight("gamma", gamma)
        self.temperature = require_positive("temperature", temperature, usual=1.0)
        self.eps = require_positive("eps", eps, usual=1e-8)

    def forward(
        self, student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar within the range above. It needs a whole batch: columns are compared over its samples.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.

        Raises:
            InputError: for logits of unequal shapes, fewer than two classes, and a batch of one sample (nothing varies along it).
        """
        require_classes(student_logits, teacher_logits)
        require_samples("DIST", student_logits)
        student = F.softmax(widen(student_logits) / self.temperature, dim=1)
        teacher = F.softmax(widen(teacher_logits.detach()) / self.temperature, dim=1)
        inter = 1 - self._correlation(student, teacher, dim=1).mean()
        intra = 1 - self._correlation(student, teacher, dim=0).mean()
        return (self.beta * inter + self.gamma * intra) * self.temperature**2

    def notes_on_classes(self, classes: int) -> list[str]:
        """Return what is to be said of so many classes."""
        if classes != 2 or not self.beta:
            return []
        return ["of two classes the correlation within a sample is 1 or -1: the part between classes has no gradient"]

    def _correlation(self, student: Tensor, teacher: Tensor, dim: int) -> Float[Tensor, " others"]:
        student = student - student.mean(dim=dim, keepdim=True)
        teacher = teacher - teacher.mean(dim=dim, keepdim=True)
        norms: Tensor = torch.linalg.vector_norm(student, dim=dim) * torch.linalg.vector_norm(teacher, dim=dim)
        return (student * teacher).sum(dim=dim) / (norms + self.eps)


def standard_scores(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return each sample's logits minus their mean, over their unbiased standard deviation + 1e-7; equal logits become 0."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(logits.shape[1] - 1)
    return centred / torch.where(deviation > 0, deviation + 1e-7, 1.0)


def notes_on_scores(classes: int, standardise: bool) -> list[str]:
    """Return what is to be said of standard scores of so many classes."""
    if classes != 2 or not standardise:
        return []
    return [
        "the standard scores of two classes say which is the larger and nothing more: standardise leaves no gradient, so leave it out"
    ]


def soften(logits: Tensor, temperature: float, standardise: bool) -> Float[Tensor, "batch classes"]:
    """Return the logits, in float32 at least, or their standard scores, divided by the temperature."""
    wide = widen(logits)
    return (standard_scores(wide) if standardise else wide) / temperature


def divergence(student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """Return KL(teacher || student) of log-probabilities [batch, outcomes], the mean over the batch, in nats."""
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def require_classes(student_logits: Tensor, teacher_logits: Tensor, at_least: int = 2) -> None:
    """Raise InputError for what are no logits, for such of unequal shapes, and for fewer classes than `at_least`."""
    for owner, logits in (("student", student_logits), ("teacher", teacher_logits)):
        require_logits(owner, logits)
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"the student's logits are {list(student_logits.shape)} and the teacher's {list(teacher_logits.shape)}: "
            "give both the same samples and classes, or leave out the losses on logits"
        )
    if student_logits.shape[1] < at_least:
        raise InputError(
            f"this loss compares classes and needs at least {at_least}, got {student_logits.shape[1]}: use ce alone"
        )
