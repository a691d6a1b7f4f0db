"""AMD: angular margin-based distillation (Jeon, Choi, Shukla, Turaga, arXiv 2302.14130)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.attention import PowerMap, match_sizes, normalise, widen
from angularkd.errors import InputError

Maps = Float[Tensor, "3 batch height width"]
"""The angular, the positive and the negative map of a batch, stacked."""


class AMDLoss(nn.Module):
    """Distance between the angular distributions of teacher and student attention maps, summed over the stages.

    For one stage with features A, attention map Q (`angularkd.attention`) and angle theta = arccos(Q):

        positive   psi = scale * (cos(margin * theta + additive_margin) - cosine_margin)
        negative   n   = scale * (1 - Q)
        angular    G   = psi - log(exp(psi) + exp(n)) = logsigmoid(psi - n)
        L(region)  = 1/3 * sum over x in (G, psi, n) of mse(unit(x_student), unit(x_teacher))
        L_stage    = L(whole map)                                                       without a grid
                   = (1 - local_weight) * L(whole map) + local_weight * mean over patches of L(patch)

    unit(x) divides by the Euclidean norm over the positions of one sample within the region; mse is the mean over
    batch and positions. Patches are the cells of a grid x grid cut of maps normalised as a whole.

    Args:
        margin: multiplicative angular margin m1 (SphereFace); 1.35 is the authors' value, 1 without the other
            margins makes the positive term exactly attention transfer.
        additive_margin: m2 in radians (ArcFace).
        cosine_margin: m3 (CosFace).
        scale: s, the radius of the hypersphere.
        power: exponent of the channel-wise power map.
        grid: k of the k x k local patches ("fine-grained features"; the authors use 2), or None for the whole map alone.
        local_weight: w, the share of the patches in a stage's loss.
        eps: added to the norm of the power map.

    `forward` takes two equally long sequences over the stages, each tensor either features
    [batch, channel, height, width] or a power map [batch, height, width] that was reduced already, and returns a
    scalar >= 0, of the order 1e-4 a stage: its weight is in the thousands. Where the sizes differ the larger
    power map is average-pooled to the smaller. The teacher's side carries no gradient.
    Maps and angles are computed in float32 at least, whatever the autocast or the features' type.

    Raises InputError, naming the stage, for sequences of unequal length, unequal batches, a map of a single position
    (it has no direction, so no gradient), and patches of fewer than two positions.

    Departures from the authors' published code: logsigmoid for the difference of exponentials (theirs overflows in
    float32 from scale = 89 and in half precision always); the derivative of cos(margin * arccos Q) takes its finite limit
    at Q = 1; unequal sizes are matched; their local class, which does not run, follows the formula above.
    """

    def __init__(
        self,
        margin: float = 1.35,
        additive_margin: float = 0.0,
        cosine_margin: float = 0.0,
        scale: float = 64.0,
        power: float = 2.0,
        grid: int | None = None,
        local_weight: float = 0.2,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if not margin > 0:
            raise InputError(f"margin multiplies the angle and must be positive, got {margin}: 1 means no margin")
        if not scale > 0:
            raise InputError(f"scale must be positive, got {scale}: the usual value is 64")
        if grid is not None and grid < 2:
            raise InputError(f"grid must be 2 or more, or None for the whole map alone, got {grid}")
        if not 0 <= local_weight <= 1:
            raise InputError(f"local_weight is the share of the patches and must lie in 0..1, got {local_weight}")
        self.margin = margin
        self.additive_margin = additive_margin
        self.cosine_margin = cosine_margin
        self.scale = scale
        self.grid = grid
        self.local_weight = local_weight
        self.eps = eps
        self.reduction = PowerMap(power)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        if len(student_features) != len(teacher_features) or not student_features:
            raise InputError(
                f"AMD pairs stages one to one, got {len(student_features)} of the student and "
                f"{len(teacher_features)} of the teacher: pass two equally long, non-empty sequences"
            )
        device = student_features[0].device.type
        with torch.autocast(device, enabled=False):
            stages = zip(student_features, teacher_features, strict=True)
            return torch.stack([self._stage(i, s, t.detach()) for i, (s, t) in enumerate(stages)]).sum()

    def maps(self, features: Tensor) -> Maps:
        """The angular, positive and negative maps (G, psi, n) of one stage's features or power map."""
        return self._angular_maps(normalise(self._power_map(features), self.eps))

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        student, teacher = self._power_map(student), self._power_map(teacher)
        if student.shape[0] != teacher.shape[0]:
            raise InputError(
                f"stage {index}: the student's batch holds {student.shape[0]} samples, the teacher's {teacher.shape[0]}"
            )
        student, teacher = match_sizes(student, teacher)
        height, width = student.shape[1:]
        if height * width < 2:
            raise InputError(
                f"stage {index}: a {height}x{width} map has no direction to learn: leave this stage out, or use larger images"
            )
        student_maps = self._angular_maps(normalise(student, self.eps))
        teacher_maps = self._angular_maps(normalise(teacher, self.eps))
        whole = region_distance(student_maps, teacher_maps)
        if self.grid is None:
            return whole
        if height // self.grid * (width // self.grid) < 2:
            raise InputError(
                f"stage {index}: a {self.grid}x{self.grid} grid leaves patches of fewer than two positions on a "
                f"{height}x{width} map: use a smaller grid, or leave this stage out"
            )
        pairs = zip(patches(student_maps, self.grid), patches(teacher_maps, self.grid), strict=True)
        local = torch.stack([region_distance(s, t) for s, t in pairs]).mean()
        return (1 - self.local_weight) * whole + self.local_weight * local

    def _power_map(self, features: Tensor) -> Float[Tensor, "batch height width"]:
        return self.reduction(features) if features.ndim == 4 else widen(features)

    def _angular_maps(self, attention_map: Float[Tensor, "batch height width"]) -> Maps:
        cosine = cosine_with_margin(attention_map, self.margin, self.additive_margin)
        positive = self.scale * (cosine - self.cosine_margin)
        negative = self.scale * (1 - attention_map)
        return torch.stack([F.logsigmoid(positive - negative), positive, negative])


def cosine_with_margin(
    cosine: Float[Tensor, "*shape"], margin: float, additive_margin: float = 0.0
) -> Float[Tensor, "*shape"]:
    """cos(margin * arccos(cosine) + additive_margin) for 0 <= cosine <= 1, with a finite gradient everywhere.

    The derivative margin * sin(margin * theta + additive_margin) / sin(theta) tends to margin**2 at theta = 0 when there is no
    additive margin; there the value is continued linearly with that slope. With an additive margin it diverges,
    and the last representable step before cosine = 1 is held constant instead.
    """
    last = 1 - torch.finfo(cosine.dtype).eps
    inside = cosine <= last
    theta = torch.arccos(torch.where(inside, cosine, 0.0))
    if additive_margin == 0:
        edge = 1 - margin**2 * (1 - cosine)
    else:
        edge = torch.full_like(cosine, math.cos(margin * math.acos(last) + additive_margin))
    return torch.where(inside, torch.cos(margin * theta + additive_margin), edge)


def region_distance(student: Maps, teacher: Maps) -> Float[Tensor, ""]:
    """The mean squared difference of the three maps, each of unit length over the positions of a sample."""
    return F.mse_loss(_unit(student), _unit(teacher))


def patches(maps: Maps, grid: int) -> Iterator[Maps]:
    """The grid x grid cells of the maps, row by row; where the grid does not divide a side, the first cells are longer."""
    for row in maps.tensor_split(grid, dim=2):
        yield from row.tensor_split(grid, dim=3)


def _unit(maps: Maps) -> Maps:
    return F.normalize(maps.flatten(2), dim=2).view_as(maps)
