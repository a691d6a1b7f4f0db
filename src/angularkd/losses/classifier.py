"""SRRL: the student's embedding, as the teacher's own classifier reads it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import full_precision, require_rows
from angularkd.losses.projectors import project


class SoftmaxRegression(nn.Module):
    """SRRL: the student's embedding, through a connector, equals the teacher's and reads the same to its classifier.

    With s = relu(batch_norm(V e_student)), t = e_teacher, and the frozen weight W of the teacher's head, whose bias
    cancels between the two logits:

        L = mse(s, t) + logit_weight * mse(W s, W t),          the means over batch and dimensions, batch and classes

    Args:
        student_dim: length of the student's embedding.
        teacher_dim: length of the teacher's embedding.
        head_weight: W of the teacher's classifier, [classes, teacher_dim]; copied, never trained, never saved.
        logit_weight: beta of the second term.
        relu: False leaves the relu out: for a teacher whose embedding has both signs, which the relu could not reach.

    Raises:
        InputError: without a head, and for one of another size than teacher_dim.

    Paper: Yang, Martinez, Bulat & Tzimiropoulos, ICLR 2021, https://openreview.net/forum?id=ZzwDy_wiWv, with its distance of logits.
    Departure: the connector acts on the pooled embedding, where the published code convolves the feature map before
    pooling. Distances are taken in float32 at least.
    """

    head_weight: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        head_weight: Float[Tensor, "classes dim"] | None,
        logit_weight: float = 1.0,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if head_weight is None or head_weight.shape[1] != teacher_dim:
            raise InputError(
                f"head_weight must be [classes, {teacher_dim}] for a teacher_dim of {teacher_dim}, got "
                f"{None if head_weight is None else list(head_weight.shape)}: give the weight of the teacher's last linear layer"
            )
        linear = nn.Linear(student_dim, teacher_dim, bias=False)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out")
        self.connector = nn.Sequential(linear, nn.BatchNorm1d(teacher_dim), nn.ReLU() if relu else nn.Identity())
        self.logit_weight = logit_weight
        self.register_buffer("head_weight", head_weight.detach().clone(), persistent=False)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0.

        Args:
            student_embedding: [batch, student_dim], what the student's classification layer gets.
            teacher_embedding: [batch, teacher_dim]; it gets no gradient.

        Raises:
            InputError: for embeddings of another length than the loss was built for, unequal batches, and a training batch of
                one (batch normalisation has no use for it).
        """
        for owner, embedding in (("student", student_embedding), ("teacher", teacher_embedding)):
            require_rows(f"SRRL takes the {owner}'s embedding as floats [batch, dim]", embedding, "pool it first")
        connected = project("SRRL", self.connector, widen(student_embedding))
        teacher = teacher_embedding.detach().to(connected.dtype)
        if teacher.shape != connected.shape:
            raise InputError(
                f"SRRL expected the teacher's embedding as {list(connected.shape)}, got {list(teacher.shape)}: "
                "build the loss with this teacher's dimension, and give both the same images"
            )
        with full_precision(connected):
            logit_difference = F.linear(connected - teacher, self.head_weight.to(connected.dtype))
        return F.mse_loss(connected, teacher) + self.logit_weight * logit_difference.square().mean()
