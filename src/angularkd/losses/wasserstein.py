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


class WassersteinLogits(nn.Module):
    """WKD-L: the entropic Wasserstein distance of predictions among the classes other than the target (Lv, Yang & Li, NeurIPS 2024).

    With t the target class, p = softmax(z), r = softmax of z / T over the other classes, and the cost between classes

        c_ij = 1 - exp( - sharpness * (1 - cosine of the rows i and j of the teacher's head) )

    the loss is

        - mean over the batch of p_teacher_t log p_student_t   +   gamma * mean over the batch of sum_ij q_ij c_ij

    where q is the plan that Sinkhorn's iterations find from r_student to r_teacher: q_ij = u_i exp(-c_ij / regularisation) v_j, with
    v = r_teacher / (K' u) and u = r_student / (K v) in turn. It is not 0 for equal predictions: the entropy spreads the plan.

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
    comes from the weight of the teacher's head, which the authors' code can take too, where they prefer the CKA of the classes' features
    over the training set; negative costs, which rounding makes, count as 0 as there; gamma is constant (theirs falls from epoch 150 on).
    """

    cost: Tensor

    def __init__(
        self,
        head_weight: Float[Tensor, "classes dim"] | None,
        gamma: float = 800.0,
        temperature: float = 8.0,
        sharpness: float = 1.0,
        regularisation: float = 0.05,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        if head_weight is None or head_weight.ndim != 2:
            raise InputError(
                f"head_weight must be [classes, dim], got {None if head_weight is None else list(head_weight.shape)}: WKD takes the "
                "cost between classes from the teacher's last linear layer, so use a teacher that has one"
            )
        self.gamma = require_weight("gamma", gamma)
        self.temperature = require_positive("temperature", temperature, usual=8.0)
        self.sharpness = require_weight("sharpness", sharpness)
        self.regularisation = require_positive("regularisation", regularisation, usual=0.05)
        require_at_least("iterations", iterations, 1, "the usual value is 10")
        self.iterations = iterations
        self.register_buffer("cost", class_costs(head_weight.detach(), self.sharpness), persistent=False)

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
            InputError: for soft labels, logits of unequal shapes or of other classes than the head's, and fewer than two classes.
        """
        require_classes(student_logits, teacher_logits)
        if student_logits.shape[1] != len(self.cost):
            raise InputError(
                f"WKD was built for {len(self.cost)} classes, got logits of {student_logits.shape[1]}: "
                "build it with this teacher's head"
            )
        target = target_classes("WKD", labels)
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


def class_costs(head_weight: Float[Tensor, "classes dim"], sharpness: float) -> Float[Tensor, "classes classes"]:
    """Return the cost of moving probability from one class to another, from the directions of their weights."""
    directions = unit_vectors(widen(head_weight))
    with full_precision(directions):
        cost = 1 - directions @ directions.mT
    if sharpness > 0:
        cost = 1 - (-sharpness * cost).exp()
    return cost.clamp(min=0) + 1e-8
