"""Losses that bring the student's pooled embedding to the teacher's, through a linear projector: cosine or MSE, and SRD."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.losses.checks import embedding_pair, require_at_least, require_positive
from angularkd.losses.projectors import project

DISTANCES = ("cosine", "mse")
PROJECTORS = ("needed", "always")


class EmbeddingMatch(nn.Module):
    """Distance of the student's embedding, through a learned linear projector, from the teacher's.

    With s = P e_student and t = e_teacher, both [dim], the mean over the batch of

        distance="cosine":   1 - <s, t> / (||s|| ||t||),   within 0..2
        distance="mse":      ||s - t||**2 / dim,           >= 0

    It needs no classes of the teacher: one without a classification layer teaches by it, by its output.

    Args:
        student_dim: length of the student's embedding.
        teacher_dim: length of the teacher's embedding.
        distance: "cosine" or "mse".
        projector: "needed" builds P, a linear layer with bias, where the two lengths differ and compares the embeddings as
            they are elsewhere; "always" builds it in any case.

    Raises:
        InputError: for another distance or projector, and for a length below 1.

    Sources: the cosine is that of summary vectors in AM-RADIO (Ranzinger et al., arXiv 2312.06709); the squared distance
    through a linear layer is FitNets' (Romero et al., arXiv 1412.6550), on the embedding. Departures: AM-RADIO's projector is a
    perceptron of two layers; an embedding of zeros, which has no direction, has a cosine of 0 and no gradient.
    """

    def __init__(self, student_dim: int, teacher_dim: int, distance: str = "cosine", projector: str = "needed") -> None:
        super().__init__()
        require_choice("distance", distance, DISTANCES)
        require_choice("projector", projector, PROJECTORS)
        self.teacher_dim = require_dims(student_dim, teacher_dim)
        self.distance = distance
        build = projector == "always" or student_dim != teacher_dim
        self.projector = nn.Linear(student_dim, teacher_dim) if build else nn.Identity()

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar within the range above; one sample will do.

        Args:
            student_embedding: [batch, student_dim], what the student's classification layer gets.
            teacher_embedding: [batch, teacher_dim]; it gets no gradient.

        Raises:
            InputError: for embeddings of other lengths than the loss was built for, unequal batches, and an empty one.
        """
        student, teacher = projected("the loss on embeddings", self.projector, student_embedding, teacher_embedding)
        if self.distance == "mse":
            return F.mse_loss(student, teacher)
        return (1 - (unit_vectors(student) * unit_vectors(teacher)).sum(dim=1)).mean()


class SimpleRecipe(nn.Module):
    """SRD: both embeddings batch-normalised, the student's behind a linear projector, and a soft maximum of the differences.

    With s = norm(P e_student + p) and t = norm(e_teacher), where norm subtracts a dimension's mean over the batch and divides by its
    standard deviation, with nothing learned:

        log( eps + sum over the batch and the dimensions of |s - t|**power )

    Args:
        student_dim: length of the student's embedding.
        teacher_dim: length of the teacher's embedding.
        power: the exponent alpha, above 0. The authors use 4.
        eps: the sum's least value, above 0.

    Raises:
        InputError: for an option out of its range, and for a length below 1.

    Paper: Miles & Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", arXiv 2303.11098 (AAAI 2024).
    The authors weigh it by 2, beside Hinton's divergence at temperature 1. Departure: eps, without which equal embeddings have a
    loss of minus infinity; with it theirs is log(eps).
    """

    def __init__(self, student_dim: int, teacher_dim: int, power: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        require_dims(student_dim, teacher_dim)
        self.power = require_positive("power", power, usual=4.0)
        self.eps = require_positive("eps", eps, usual=1e-6)
        self.projector = nn.Sequential(
            nn.Linear(student_dim, teacher_dim), nn.BatchNorm1d(teacher_dim, eps=1e-4, affine=False)
        )
        self.teacher_norm = nn.BatchNorm1d(teacher_dim, eps=1e-4, affine=False)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= log(eps), often negative.

        Args:
            student_embedding: [batch, student_dim], what the student's classification layer gets.
            teacher_embedding: [batch, teacher_dim]; it gets no gradient.

        Raises:
            InputError: for embeddings of other lengths than the loss was built for, unequal batches, and a training batch of
                one (batch normalisation has no use for it).
        """
        student, teacher = projected("SRD", self.projector, student_embedding, teacher_embedding)
        precision = next(self.teacher_norm.buffers()).dtype
        normalised = self.teacher_norm(teacher.to(precision)).to(student.dtype)
        return ((student - normalised).abs().pow(self.power).sum() + self.eps).log()


def projected(
    loss: str, projector: nn.Module, student_embedding: Tensor, teacher_embedding: Tensor
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
    """Return the student's embedding through a projector, and the teacher's, detached, in float32 at least.

    Raises InputError, naming the loss, for lengths that the projector does not bring together, and unequal or empty batches.
    """
    student, teacher = embedding_pair(loss, student_embedding, teacher_embedding, at_least=1)
    student = project(loss, projector, student)
    if student.shape != teacher.shape:
        raise InputError(
            f"{loss} expected the teacher's embedding as {list(student.shape)}, got {list(teacher.shape)}: "
            "build the loss with the lengths of these embeddings"
        )
    return student, teacher.to(student.dtype)


def unit_vectors(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Return each row divided by its length; rows of zeros stay, without a gradient."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, torch.inf)


def require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError, naming all choices, for a value that is none of them."""
    if value not in choices:
        raise InputError(f"{option} must be one of {', '.join(choices)}, got {value!r}: write {option}={choices[0]}")


def require_dims(student_dim: int, teacher_dim: int) -> int:
    """Return the teacher's length. Raises InputError unless both embeddings have one of 1 or more."""
    for name, dim in (("student_dim", student_dim), ("teacher_dim", teacher_dim)):
        require_at_least(name, dim, 1, "give the length of the embedding")
    return teacher_dim
