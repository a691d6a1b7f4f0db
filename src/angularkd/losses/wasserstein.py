"""WKD's logit part: the cost of transporting the student's predictions to the teacher's, cheap between classes that are alike."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import full_precision, require_at_least, require_positive, require_weight
from angularkd.losses.decoupled import target_classes
from angularkd.losses.embedding import unit_vectors
from angularkd.losses.logit import Labels, require_classes

Costs = Float[Tensor, "classes classes"]


class _Transport(nn.Module):
    """What both forms share: all but where the distances between classes come from.

    Args:
        distances: 0 for a class from itself, [classes, classes].
        gamma, temperature, sharpness, regularisation, iterations: those of `WassersteinLogits`.
    """

    cost: Tensor

    def __init__(
        self,
        distances: Costs,
        gamma: float,
        temperature: float,
        sharpness: float,
        regularisation: float,
        iterations: int,
    ) -> None:
        super().__init__()
        self.gamma = require_weight("gamma", gamma)
        self.temperature = require_positive("temperature", temperature, usual=8.0)
        self.sharpness = require_weight("sharpness", sharpness)
        self.regularisation = require_positive("regularisation", regularisation, usual=0.05)
        require_at_least("iterations", iterations, 1, "the usual value is 10")
        self.iterations = iterations
        self.register_buffer("cost", sharpened(distances, self.sharpness), persistent=False)

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        labels: Labels,
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar > 0.

        Args:
            student_logits: [batch, classes].
            teacher_logits: [batch, classes]; they get no gradient.
            labels: class indices [batch].

        Raises:
            InputError: for soft labels, logits of unequal shapes or of other classes than the costs', and fewer than two classes.
        """
        require_classes(student_logits, teacher_logits)
        if student_logits.shape[1] != len(self.cost):
            raise InputError(
                f"WKD was built for {len(self.cost)} classes, got logits of {student_logits.shape[1]}: "
                "build it with this teacher's head"
            )
        target = target_classes("WKD", labels, student_logits)
        student, teacher = widen(student_logits), widen(teacher_logits.detach())
        log_confidence = F.log_softmax(student, dim=1).gather(1, target)
        target_part = -(F.softmax(teacher, dim=1).gather(1, target) * log_confidence).mean()
        is_target = torch.zeros_like(student, dtype=torch.bool).scatter(1, target, True)
        rest_student, rest_teacher = (
            F.softmax((side / self.temperature).masked_fill(is_target, -torch.inf), dim=1)
            for side in (student, teacher)
        )
        return target_part + self.gamma * self._transport(rest_student, rest_teacher, is_target)

    def _transport(
        self, student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], is_target: Tensor
    ) -> Float[Tensor, ""]:
        """Return the mean cost of the plans; a class without mass on both sides, the target, takes no part in them."""
        cost = self.cost.to(student.dtype)
        with full_precision(student):
            kernel = (-cost / self.regularisation).exp()
            u = torch.full_like(student, 1 / (student.shape[1] - 1)).masked_fill(is_target, 0.0)
            for _ in range(self.iterations):
                v = teacher / (u @ kernel + 1e-8)
                u = student / (v @ kernel.mT + 1e-8)
            return (u * (v @ (kernel * cost).mT)).sum(dim=1).mean()

    def notes_on_classes(self, classes: int) -> list[str]:
        """Return what is to be said of so many classes."""
        if classes != 2 or not self.gamma:
            return []
        return [
            "of two classes one is left beside the target: the transport costs the same whatever the student predicts"
        ]


class WassersteinLogits(_Transport):
    """WKD-L: the entropic Wasserstein distance of predictions among the classes other than the target (Lv, Yang & Li, NeurIPS 2024).

    With t the target class, p = softmax(z), r = softmax of z / T over the other classes, and the cost between classes

        c_ij = 1 - exp( - sharpness * (1 - cosine of the rows i and j of the teacher's head) )

    the loss is

        - mean over the batch of p_teacher_t log p_student_t   +   gamma * mean over the batch of sum_ij q_ij c_ij

    where q is the plan that Sinkhorn's iterations find from r_student to r_teacher: q_ij = u_i exp(-c_ij / regularisation) v_j, with
    v = r_teacher / (K' u) and u = r_student / (K v) in turn. It is not 0 for equal predictions: the entropy spreads the plan. Of two
    classes one is left beside the target, and the transport is a constant.

    Args:
        head_weight: of the teacher's classification layer, [classes, dim]; copied, never trained, never saved.
        gamma: weight of the transport, 0 or more. The authors use 800 on CIFAR-100.
        temperature: T > 0 of the transport. The authors use 8 on CIFAR-100.
        sharpness: of the cost, 0 or more; 0 takes 1 - cosine itself. The authors use 1.
        regularisation: of the plan, above 0. The authors use 0.05.
        iterations: how often u and v are renewed, 1 or more; gradients go through all of them. The authors use 10.

    Raises:
        InputError: without a head, and for an option out of its range.

    Paper: "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", arXiv 2412.08139. Departures: the cost
    comes from the weight of the teacher's head, which the authors' code can take too ("fc"), where they prefer the CKA of
    `WassersteinCKA`; negative costs, which rounding makes, count as 0 as there; gamma is constant (theirs falls from epoch 150 on).
    """

    def __init__(
        self,
        head_weight: Float[Tensor, "classes dim"] | None,
        gamma: float = 800.0,
        temperature: float = 8.0,
        sharpness: float = 1.0,
        regularisation: float = 0.05,
        iterations: int = 10,
    ) -> None:
        if head_weight is None or head_weight.ndim != 2:
            raise InputError(
                f"head_weight must be [classes, dim], got {None if head_weight is None else list(head_weight.shape)}: WKD takes the "
                "cost between classes from the teacher's last linear layer, so use a teacher that has one, or wkd_cka"
            )
        distances = cosine_distances(head_weight.detach())
        super().__init__(distances, gamma, temperature, sharpness, regularisation, iterations)


class WassersteinCKA(_Transport):
    """WKD-L with the paper's cost: how little alike the teacher's answers to two classes are, by centred kernel alignment.

    The loss is that of `WassersteinLogits`, with the cost between classes

        c_ij = 1 - exp( - sharpness * (1 - CKA(X_i, X_j)) ),    CKA(X, Y) = ||Y' X||_F**2 / ( ||X' X||_F ||Y' Y||_F )

    where X_i [samples, classes] holds the teacher's logits of images of class i, less their mean over these images. Row k of one class is
    set against row k of the other, so the order of the images matters, a little; both sides have equally many.

    Args:
        class_logits: the teacher's, [classes, samples, classes], at least two samples a class; they are not stored.
        gamma, temperature, sharpness, regularisation, iterations: those of `WassersteinLogits`. On ImageNet the authors use a sharpness
            of 1 for a ResNet-34 and of 2 for a ResNet-50 as the teacher.

    Raises:
        InputError: without such logits, and for an option out of its range.

    Paper: arXiv 2412.08139, section 3.1, and the authors' tools/generate_cost_matrix.py, linear CKA. Departures: they take all training
    images, of the class that has fewest, and on CIFAR-100 the positions of the last feature maps as samples in the place of logits;
    a class whose logits are all equal, which has no CKA, is at a distance of 1 from all others.
    """

    def __init__(
        self,
        class_logits: Float[Tensor, "classes samples outputs"] | None,
        gamma: float = 800.0,
        temperature: float = 8.0,
        sharpness: float = 1.0,
        regularisation: float = 0.05,
        iterations: int = 10,
    ) -> None:
        if class_logits is None or class_logits.ndim != 3 or class_logits.shape[1] < 2:
            raise InputError(
                f"class_logits must be [classes, samples, classes] with two samples or more a class, got "
                f"{None if class_logits is None else list(class_logits.shape)}: give the teacher's logits of training images of each "
                "class, or use wkd, which takes the cost from the teacher's head"
            )
        super().__init__(
            cka_distances(class_logits.detach()), gamma, temperature, sharpness, regularisation, iterations
        )


def cosine_distances(rows: Float[Tensor, "classes dim"]) -> Costs:
    """Return 1 less the cosine of each two rows."""
    directions = unit_vectors(widen(rows))
    with full_precision(directions):
        return 1 - directions @ directions.mT


def cka_distances(class_logits: Float[Tensor, "classes samples outputs"]) -> Costs:
    """Return 1 less the linear CKA of each two classes. ||Y' X||_F**2 is the product of both sides' Gram matrices over samples."""
    centred = widen(class_logits) - widen(class_logits).mean(dim=1, keepdim=True)
    with full_precision(centred):
        grams = unit_vectors((centred @ centred.mT).flatten(1))
        return (1 - grams @ grams.mT).fill_diagonal_(0.0)


def sharpened(distances: Costs, sharpness: float) -> Costs:
    """Return the cost of moving probability between classes at these distances, above 0 everywhere."""
    cost = 1 - (-sharpness * distances).exp() if sharpness > 0 else distances
    return cost.clamp(min=0) + 1e-8
