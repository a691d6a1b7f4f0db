"""Factor transfer: teacher and student summarise their features, and the summaries agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.features import PowerMap
from angularkd.losses.checks import require_at_least, require_paired, require_weight
from angularkd.losses.feature import unit_maps
from angularkd.losses.projectors import GIVE_SHAPES, Shapes, matched_pairs, project, stage_channels


class FactorTransfer(nn.Module):
    """Factor transfer: the student's factors, of unit length, approach the teacher's, summed over the stages.

        L_stage = mean over batch and entries of |unit(F_student) - unit(F_teacher)| ** exponent

    The factors have rate * teacher's channels: a translator (three 3 x 3 convolutions) makes the student's; a paraphraser, an
    autoencoder of the teacher's features, makes the teacher's. unit(F) divides by the Euclidean norm over channels and positions
    of one sample. The loss of a stage grows by what trains the paraphraser and nothing else,

        reconstruction_weight * mean |paraphrased(A_teacher) - A_teacher|

    Without a rate nothing is learned: these are factors without paraphraser and translator, no factor transfer but the distance
    of power maps that it is often taken for. A factor is then F = sum_c |A_c| ** power, and unit acts over the positions.

    Args:
        student_shapes: (channels, height, width) of each stage; needed with a rate, ignored without.
        teacher_shapes: the same of the teacher.
        rate: k in 0..1, the factors' share of the teacher's channels (the paper's is 0.5), or None for power maps.
        power: exponent of the power map, 1 or more, without a rate.
        exponent: p of the distance, 1 or more.
        reconstruction_weight: of the paraphraser's own loss, with a rate. By default 1 / 500, so that it counts once at the authors'
            weight of 500 for the whole.

    Raises:
        InputError: for an option out of its range, and a rate that leaves no channel or comes without shapes.

    The paper takes the last stage alone, as the table of losses does by default.

    Paper: Kim, Park & Kwak, arXiv 1802.04977. Departures: the paraphraser trains beside the student, on the same batches, where
    the authors train it on the teacher's features for a few epochs before; the distance gives it no gradient in either case. Its
    reconstruction is measured by the mean absolute error of the published code, where the paper has a squared one.
    """

    def __init__(
        self,
        student_shapes: Shapes | None = None,
        teacher_shapes: Shapes | None = None,
        rate: float | None = 0.5,
        power: float = 2.0,
        exponent: float = 1.0,
        reconstruction_weight: float = 0.002,
    ) -> None:
        super().__init__()
        require_at_least("exponent", exponent, 1, "below it the gradient at zero is not finite, use 1")
        self.rate = rate
        self.exponent = exponent
        self.reconstruction_weight = require_weight("reconstruction_weight", reconstruction_weight)
        self.power_map = PowerMap(power)
        self.reduction = self.power_map if rate is None else None
        if rate is not None:
            self._build(rate, student_shapes, teacher_shapes)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0; its usual weight is 500, the authors', or 200 without a rate.

        Args:
            student_features: [batch, channel, height, width], one a stage; without a rate also power maps [batch, height, width].
            teacher_features: the same of the teacher; where the sizes differ the larger features, or maps, are average-pooled to
                the smaller. They get no gradient, and the factors of the paraphraser none from the student's distance.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, and maps of a single position (without
                a rate).
        """
        if self.rate is None:
            require_paired("factor transfer", student_features, teacher_features)
            stages = enumerate(zip(student_features, teacher_features, strict=True))
            units = [unit_maps(i, s, t, self.power_map) for i, (s, t) in stages]
            return torch.stack([self._distance(s, t) for s, t in units]).sum()
        pairs = matched_pairs("factor transfer", self.translators, student_features, teacher_features)
        return torch.stack([self._learned(i, s, t) for i, (s, t) in enumerate(pairs)]).sum()

    def _build(self, rate: float, student_shapes: Shapes | None, teacher_shapes: Shapes | None) -> None:
        if student_shapes is None or teacher_shapes is None:
            raise InputError(f"factor transfer learns translators: {GIVE_SHAPES}, or use rate=None for power maps")
        channels = stage_channels(student_shapes, teacher_shapes)
        factors = [round(rate * teacher) for _, teacher in channels]
        if not all(0 < count <= teacher for count, (_, teacher) in zip(factors, channels, strict=True)):
            raise InputError(
                f"rate {rate} leaves {factors} channels of the teacher's: it must leave some and at most all"
            )
        self.translators = nn.ModuleList(_encoder(s, count) for (s, _), count in zip(channels, factors, strict=True))
        self.paraphrasers = nn.ModuleList(_encoder(t, count) for (_, t), count in zip(channels, factors, strict=True))
        self.decoders = nn.ModuleList(_decoder(count, t) for (_, t), count in zip(channels, factors, strict=True))

    def _learned(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        translated = project(index, self.translators[index], student)
        factor = project(index, self.paraphrasers[index], teacher)
        rebuilt = project(index, self.decoders[index], factor)
        distance = self._distance(_unit(translated), _unit(factor.detach()))
        return distance + self.reconstruction_weight * F.l1_loss(rebuilt, teacher.to(rebuilt.dtype))

    def _distance(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return (student - teacher).abs().pow(self.exponent).mean()


def _unit(features: Tensor) -> Float[Tensor, "batch entries"]:
    return F.normalize(features.flatten(1))


def _encoder(channels: int, factors: int) -> nn.Sequential:
    steps = ((channels, channels), (channels, factors), (factors, factors))
    return nn.Sequential(*(layer for a, b in steps for layer in (nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1))))


def _decoder(factors: int, channels: int) -> nn.Sequential:
    steps = ((factors, factors), (factors, channels), (channels, channels))
    return nn.Sequential(*(layer for a, b in steps for layer in (nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1))))
