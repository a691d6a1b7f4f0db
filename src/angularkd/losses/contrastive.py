"""CRD: contrastive representation distillation (Tian, Krishnan, Isola, arXiv 1910.10699)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import widen
from angularkd.losses.checks import full_precision, require_at_least, require_positive, require_rows, require_share
from angularkd.system.ranks import gather_rows


class CRD(nn.Module):
    """CRD: a critic tells whether a student's and a teacher's embedding are of one sample, among many that are not.

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
        num_samples: N, the rows of the training split, 2 or more.
        labels: the classes of those rows, in their order: negatives are then of other classes than their sample, as in
            RepDistiller. Without labels, they are any other samples.
        num_negatives: K, 1 or more. The authors use 16384.
        temperature: of the inner products, above 0. The authors use 0.07.
        momentum: the share of itself that remains of a row, in 0..1 (1 excluded: nothing would be learned). The authors use 0.5.
        projection_dim: width of the common space. The authors use 128.

    Raises:
        InputError: for an option out of its range, and labels of another number than num_samples or all of one class.

    Memories, Z and the order by class are buffers: a checkpoint of the module's state resumes them. They change in
    training mode alone. Negatives come from torch's global generator on the memories' device, which a checkpoint has to
    hold as well. In a distributed training (`torch.distributed`), every process moves the rows of all of them on, and Z is over the first
    batches of all, so that the memories are equal everywhere: also under `DistributedDataParallel`, which gives rank 0's buffers to the
    others before each forward.

    Paper: Tian, Krishnan & Isola, arXiv 1910.10699. Departures from the authors' code: negatives are drawn with
    replacement (theirs without, as long as there are enough); all is computed from logarithms, without their 1e-7;
    products are formed with the whole memory and the candidates' picked, which takes batch * N numbers instead of
    batch * K * projection_dim. Computed in float32 at least.
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
        require_at_least("num_samples", num_samples, 2, "CRD tells the samples of a training split apart")
        require_at_least("num_negatives", num_negatives, 1, "the usual value is 16384")
        self.num_samples = num_samples
        self.num_negatives = num_negatives
        self.temperature = require_positive("temperature", temperature, usual=0.07)
        self.momentum = require_share("momentum", momentum, usual=0.5)
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
        """Return the loss, a scalar > 0 in nats; the authors' weight is 0.8.

        It begins near 2 + 2 log(num_negatives) + 1 / (projection_dim * temperature**2), for random directions whose inner products
        have the variance 1 / projection_dim: between 23 and 23.5 with the authors' options, K = 16384 among them.

        Args:
            student_embedding: [batch, student_dim]; a batch of one will do.
            teacher_embedding: [batch, teacher_dim]; it gets no gradient, but its linear layer learns.
            indices: [batch], the distinct rows of the training split that the embeddings are of.

        Raises:
            InputError: for embeddings and indices of unequal batches.
        """
        for owner, embedding in (("student", student_embedding), ("teacher", teacher_embedding)):
            require_rows(f"CRD takes the {owner}'s embedding as floats [batch, dim]", embedding, "pool it first")
        if not len(student_embedding) == len(teacher_embedding) == len(indices):
            raise InputError(
                f"CRD got {len(student_embedding)} embeddings of the student, {len(teacher_embedding)} of the teacher "
                f"and {len(indices)} indices: give one of each for every sample"
            )
        indices = indices.long()
        with full_precision(student_embedding):
            student = _project(self.student_projection, student_embedding)
            teacher = _project(self.teacher_projection, teacher_embedding.detach())
            candidates = torch.cat([indices.unsqueeze(1), self.draw_negatives(indices)], dim=1)
            loss = self._side(student, self.teacher_memory, candidates, self.student_log_z)
            loss = loss + self._side(teacher, self.student_memory, candidates, self.teacher_log_z)
            if self.training:
                indices = gather_rows(indices)
                self._remember(self.student_memory, indices, gather_rows(student))
                self._remember(self.teacher_memory, indices, gather_rows(teacher))
        return loss

    def draw_negatives(self, indices: Int[Tensor, " batch"]) -> Int[Tensor, "batch negatives"]:
        """Draw `num_negatives` rows of other classes for each sample, uniformly and with replacement."""
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
        """Return L_side; the first of a sample's candidates is its own row. Set `log_z` if it never was."""
        rows = widen(memory.clone())  # the memory changes in place before the gradient asks for these rows
        scores = (anchors @ rows.mT / self.temperature).gather(1, candidates)
        all_scores = scores.detach().logsumexp(dim=1)
        if self.training:
            all_scores = gather_rows(all_scores)
        first_log_z = (
            math.log(self.num_samples / candidates.shape[1]) - math.log(len(all_scores)) + all_scores.logsumexp(dim=0)
        )
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
    """Return uniform numbers of such a width that rows have length 1 on average, as in the authors' code."""
    width = math.sqrt(3 / projection_dim)
    return torch.empty(num_samples, projection_dim).uniform_(-width, width)


def _order_by_class(
    num_samples: int, labels: Shaped[Tensor, " labels"] | None
) -> tuple[Int[Tensor, " num_samples"], Int[Tensor, " num_samples"], Int[Tensor, " num_samples"]]:
    """Return the rows sorted by class, and for each row where its class begins in that order and how many rows it has.

    Without labels each row is a class of its own.
    """
    if labels is None:
        rows = torch.arange(num_samples)
        return rows, rows.clone(), torch.ones_like(rows)
    if len(labels) != num_samples:
        raise InputError(
            f"CRD needs a label for each of {num_samples} samples, got {len(labels)}: give the training split's"
        )
    classes, members, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError("CRD draws negatives from other classes, and all labels are of one: leave labels out")
    starts = sizes.cumsum(0) - sizes
    return labels.argsort(stable=True), starts[members], sizes[members]
