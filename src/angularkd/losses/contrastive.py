"""CRD: contrastive representation distillation (Tian, Krishnan, Isola, arXiv 1910.10699)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features.attention import widen


class CRD(nn.Module):
    """Tell whether a student's and a teacher's embedding are of one sample, among many that are not.

    With s_i and t_i the embeddings of sample i, each mapped by a learned linear layer to `projection_dim` numbers and
    divided by its norm, memories S and T [num_samples, projection_dim] of them, N = num_samples, K = num_negatives, and
    n_1 .. n_K samples drawn at random among those of other classes:

        P(a, b)  = exp(<a, b> / temperature) / Z,       Z = N * mean of exp(<a, b> / temperature) over the first batch
        h(a, b)  = P(a, b) / (P(a, b) + K / N),         the probability that a and b belong together
        L_side   = - mean over the batch of [ log h(a, b_i) + sum_k log(1 - h(a, b_(n_k))) ]
        L        = L_side(a = s_i, b = rows of T) + L_side(a = t_i, b = rows of S)

    Then the rows of the batch move on: row_i = unit(momentum * row_i + (1 - momentum) * a_i).

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        num_samples: N, the rows of the training split.
        labels: the classes of those rows, in their order: negatives are then of other classes than their sample, as in
            RepDistiller. Without labels, they are any other samples.
        num_negatives: K. The authors use 16384.
        temperature: of the inner products. The authors use 0.07.
        momentum: the share that a row keeps of itself. The authors use 0.5.
        projection_dim: width of the common space. The authors use 128.

    `forward` takes two embeddings [batch, dim] and `indices` [batch], the distinct rows of the training split that they
    are of, and returns a scalar > 0 in nats, which begins near 2 + 2 log(num_negatives); the authors' weight is 0.8. It
    may be a batch of one. The teacher carries no gradient, but its linear layer learns. Computed in float32 at least.

    Memories, Z and the order by class are buffers: a checkpoint of the module's state resumes them. They change in
    training mode alone. Negatives come from torch's global generator on the memories' device, which a checkpoint has to
    hold as well. The memory is this process's own: it is not shared among several.

    Raises InputError for options out of their range, labels of another number than num_samples or all of one class,
    and embeddings and indices of unequal batches.

    Departures from the authors' code: negatives are drawn with replacement (theirs without, as long as there are
    enough); all is computed from logarithms, without their 1e-7; products are formed with the whole memory and the
    candidates' picked, which takes batch * N numbers instead of batch * K * projection_dim.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    student_log_z: Tensor
    teacher_log_z: Tensor
    by_class: Tensor
    class_start: Tensor
    class_size: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        num_samples: int,
        labels: Int[Tensor, " num_samples"] | None = None,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        projection_dim: int = 128,
    ) -> None:
        super().__init__()
        if num_samples < 2:
            raise InputError(f"CRD tells samples apart and needs num_samples of at least 2, got {num_samples}")
        if num_negatives < 1:
            raise InputError(f"num_negatives must be at least 1, got {num_negatives}: the usual value is 16384")
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}: the usual value is 0.07")
        if not 0 <= momentum < 1:
            raise InputError(
                f"momentum must lie in 0..1 (1 excluded: nothing would be learned), got {momentum}: use 0.5"
            )
        self.num_samples = num_samples
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.momentum = momentum
        self.student_projection = nn.Linear(student_dim, projection_dim)
        self.teacher_projection = nn.Linear(teacher_dim, projection_dim)
        self.register_buffer("student_memory", _random_rows(num_samples, projection_dim))
        self.register_buffer("teacher_memory", _random_rows(num_samples, projection_dim))
        self.register_buffer("student_log_z", torch.tensor(math.nan))
        self.register_buffer("teacher_log_z", torch.tensor(math.nan))
        by_class, class_start, class_size = _order_by_class(num_samples, labels)
        self.register_buffer("by_class", by_class)
        self.register_buffer("class_start", class_start)
        self.register_buffer("class_size", class_size)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
        indices: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        if not len(student_embedding) == len(teacher_embedding) == len(indices):
            raise InputError(
                f"CRD got {len(student_embedding)} embeddings of the student, {len(teacher_embedding)} of the teacher "
                f"and {len(indices)} indices: give one of each for every sample"
            )
        indices = indices.long()
        with torch.autocast(student_embedding.device.type, enabled=False):
            student = _project(self.student_projection, student_embedding)
            teacher = _project(self.teacher_projection, teacher_embedding.detach())
            candidates = torch.cat([indices.unsqueeze(1), self.draw_negatives(indices)], dim=1)
            loss = self._side(student, self.teacher_memory, candidates, self.student_log_z)
            loss = loss + self._side(teacher, self.student_memory, candidates, self.teacher_log_z)
            if self.training:
                self._remember(self.student_memory, indices, student)
                self._remember(self.teacher_memory, indices, teacher)
        return loss

    def draw_negatives(self, indices: Int[Tensor, " batch"]) -> Int[Tensor, "batch negatives"]:
        """For each sample `num_negatives` rows of other classes, drawn uniformly and with replacement."""
        start, size = self.class_start[indices].unsqueeze(1), self.class_size[indices].unsqueeze(1)
        draws = torch.randint(2**62, (len(indices), self.num_negatives), device=self.by_class.device)
        positions = draws % (self.num_samples - size)
        return self.by_class[positions + size * (positions >= start)]

    def _side(
        self,
        anchors: Float[Tensor, "batch projection"],
        memory: Tensor,
        candidates: Int[Tensor, "batch candidates"],
        log_z: Tensor,
    ) -> Float[Tensor, ""]:
        """L_side: the first of a sample's candidates is its own row. `log_z` is set here if it never was."""
        rows = widen(memory.clone())  # the memory changes in place before the gradient asks for these rows
        scores = (anchors @ rows.mT / self.temperature).gather(1, candidates)
        first_log_z = math.log(self.num_samples / scores.numel()) + scores.detach().flatten().logsumexp(dim=0)
        current = torch.where(log_z.isnan(), first_log_z, log_z)
        if self.training:
            log_z.copy_(current)
        log_odds = scores - current - math.log(self.num_negatives / self.num_samples)
        positive, negatives = log_odds[:, 0], log_odds[:, 1:]
        return (F.softplus(-positive) + F.softplus(negatives).sum(dim=1)).mean()

    @torch.no_grad()
    def _remember(
        self, memory: Tensor, indices: Int[Tensor, " batch"], rows: Float[Tensor, "batch projection"]
    ) -> None:
        moved = self.momentum * widen(memory[indices]) + (1 - self.momentum) * rows
        memory.index_copy_(0, indices, F.normalize(moved, dim=1).to(memory.dtype))


def _project(projection: nn.Linear, embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch projection"]:
    weight, bias = widen(projection.weight), widen(projection.bias)
    return F.normalize(F.linear(embedding.to(weight.dtype), weight, bias), dim=1)


def _random_rows(num_samples: int, projection_dim: int) -> Float[Tensor, "num_samples projection_dim"]:
    """Uniform numbers of such a width that rows have length 1 on average, as in the authors' code."""
    width = math.sqrt(3 / projection_dim)
    return torch.empty(num_samples, projection_dim).uniform_(-width, width)


def _order_by_class(
    num_samples: int, labels: Shaped[Tensor, " labels"] | None
) -> tuple[Int[Tensor, " num_samples"], Int[Tensor, " num_samples"], Int[Tensor, " num_samples"]]:
    """The rows sorted by class, and for each row where its class begins in that order and how many rows it has.

    Without labels each row is a class of its own.
    """
    if labels is None:
        rows = torch.arange(num_samples)
        return rows, rows.clone(), torch.ones_like(rows)
    if len(labels) != num_samples:
        raise InputError(
            f"CRD wants a label for each of {num_samples} samples, got {len(labels)}: give the training split's"
        )
    classes, members, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError("CRD draws negatives from other classes, and all labels are of one: leave labels out")
    starts = sizes.cumsum(0) - sizes
    return labels.argsort(stable=True), starts[members], sizes[members]
