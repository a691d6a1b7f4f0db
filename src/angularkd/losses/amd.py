"""AMD: angular margin-based distillation (Jeon, Choi, Shukla, Turaga, arXiv 2302.14130)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError, nearest
from angularkd.features import LEAST_SQUARE, mechanism, normalise, to_map
from angularkd.losses.checks import full_precision, map_pair, refusal, require_paired, require_positive
from angularkd.losses.polynomials import Series, cosine_series, log_sigmoid, polynomial

Map = Float[Tensor, "batch height width"]

MARGINS: dict[str, tuple[float, float, float]] = {
    "sphereface": (1.35, 0.0, 0.0),
    "arcface": (1.0, 0.5, 0.0),
    "cosface": (1.0, 0.0, 0.35),
}
"""Named margins (m1, m2, m3): multiplicative, SphereFace (arXiv 1704.08063) with AMD's 1.35; additive, in radians, of ArcFace
(arXiv 1801.07698); of the cosine, of CosFace (arXiv 1801.09414)."""


class AMDLoss(nn.Module):
    """Measure the distance between the angular distributions of teacher's and student's attention maps, summed over the stages.

    For one stage with attention map P, Q = P / (||P||_F + eps) (`angularkd.features`) and angle theta = arccos(Q):

        positive   psi = scale * (cos(margin * theta + additive_margin) - cosine_margin)
        negative   n   = scale * (1 - Q)
        angular    G   = psi - log(exp(psi) + exp(n)) = logsigmoid(psi - n)
        L(region)  = 1/3 * sum over x in (G, psi, n) of mse(unit(x_student), unit(x_teacher))
        L_stage    = L(whole map)                                                       without a grid
                   = (1 - local_weight) * L(whole map) + local_weight * mean over patches of L(patch)

    unit(x) divides by the Euclidean norm over the positions of one sample within the region; mse is the mean over
    batch and positions. Patches are the cells of a grid x grid cut of maps normalised as a whole.

    Args:
        margin: the multiplicative angular margin m1 > 0 (SphereFace); 1.35 is the authors' value, 1 without the other
            margins makes the positive term exactly attention transfer. Or the name of all three in MARGINS:
            "sphereface", "arcface", "cosface".
        additive_margin: m2 in radians (ArcFace).
        cosine_margin: m3 (CosFace).
        scale: s > 0, the radius of the hypersphere.
        power: exponent of the channel-wise power map, 1 or more; of several, [1, 2, 4], the mean of their losses is taken.
        grid: k of the k x k local patches ("fine-grained features"; the authors use 2), or None for the whole map alone.
        local_weight: w in 0..1, the share of the patches in a stage's loss.
        attention: the mechanism that makes P, a name in `angularkd.features.ATTENTIONS`.
        stage_weights: factor of each stage's loss, shallow to deep; None for 1 each. A stage of weight 0 is not computed.
        eps: added to the norm of P.

    Raises:
        InputError: for an option out of its range, and a margin or attention of an unknown name.

    Paper: Jeon, Choi, Shukla & Turaga, arXiv 2302.14130. Departures from the authors' published code: logsigmoid for the
    difference of exponentials (theirs overflows in float32 from scale = 89 and in half precision always); the derivative of
    cos(margin * arccos Q) takes its finite limit at Q = 1; unequal sizes are matched; their local class, which does not run,
    follows the formula above. Maps and angles are computed in float32 at least, whatever the autocast or the features' type.
    """

    def __init__(
        self,
        margin: float | str = 1.35,
        additive_margin: float = 0.0,
        cosine_margin: float = 0.0,
        scale: float = 64.0,
        power: float | Sequence[float] = 2.0,
        grid: int | None = None,
        local_weight: float = 0.2,
        attention: str = "power",
        stage_weights: Sequence[float] | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if isinstance(margin, str):
            margin, additive_margin, cosine_margin = _margins(margin, additive_margin, cosine_margin)
        numbers = {
            "margin": margin,
            "additive_margin": additive_margin,
            "cosine_margin": cosine_margin,
            "scale": scale,
            "local_weight": local_weight,
            "eps": eps,
        }
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}")
        if not margin > 0:
            raise InputError(f"margin multiplies the angle and must be positive, got {margin}: 1 means no margin")
        require_positive("scale", scale, usual=64)
        if grid is not None and (not isinstance(grid, int) or grid < 2):
            raise InputError(f"grid must be a whole number of 2 or more, or None for the whole map alone, got {grid}")
        if not 0 <= local_weight <= 1:
            raise InputError(f"local_weight is the share of the patches and must lie in 0..1, got {local_weight}")
        if stage_weights is not None and (min(stage_weights, default=-1) < 0 or not any(stage_weights)):
            raise InputError(f"stage_weights must be numbers >= 0, one a stage and one above 0, got {stage_weights}")
        self.margin = margin
        self.additive_margin = additive_margin
        self.cosine_margin = cosine_margin
        self.scale = scale
        self.grid = grid
        self.local_weight = local_weight
        self.stage_weights = tuple(stage_weights) if stage_weights is not None else None
        self.eps = eps
        self.reduction = mechanism(attention, power)
        self._series = cosine_series(margin, additive_margin)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Return the loss, a scalar >= 0 of the order 1e-4 a stage: its weight is in the thousands.

        Args:
            student_features: one tensor a stage, either features [batch, channel, height, width] or a map P [batch, height,
                width] that was made already.
            teacher_features: the same of the teacher, of any channels. Where the sizes differ the larger P is average-pooled to
                the smaller. They get no gradient.

        Raises:
            InputError: naming the stage, for sequences of unequal length, unequal batches, a map of a single position (it has
                no direction, so no gradient), patches of fewer than two positions, and stage weights of another number.
        """
        return self.by_map(student_features, teacher_features).sum()

    def by_map(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, 3]:
        """Return the loss in its three parts, which sum to it: of the angular, the positive and the negative maps.

        Arguments and errors are those of `forward`.
        """
        require_paired("AMD", student_features, teacher_features)
        weights = self.stage_weights or (1.0,) * len(student_features)
        if len(weights) != len(student_features):
            raise InputError(
                f"AMD got {len(weights)} stage_weights for {len(student_features)} paired stages: give one a stage"
            )
        with full_precision(student_features[0]):
            stages = enumerate(zip(weights, student_features, teacher_features, strict=True))
            return torch.stack([w * self._stage(i, s, t) for i, (w, s, t) in stages if w]).sum(dim=0)

    def maps(self, features: Tensor) -> Float[Tensor, "3 batch height width"]:
        """Return the angular, positive and negative maps (G, psi, n) of one stage's features, or of its map P, stacked."""
        return torch.stack(self._angular_maps(normalise(to_map(features, self.reduction), self.eps)))

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, 3]:
        student, teacher = map_pair(index, student, teacher, self.reduction)
        student_maps = self._angular_maps(normalise(student, self.eps))
        teacher_maps = self._angular_maps(normalise(teacher, self.eps))
        both = list(zip(student_maps, teacher_maps, strict=True))
        whole = torch.stack([region_distance(s, t) for s, t in both])
        if self.grid is None:
            return whole
        height, width = student.shape[1:]
        if height // self.grid * (width // self.grid) < 2:
            raise refusal(
                index,
                f"a {self.grid}x{self.grid} grid leaves patches of fewer than two positions on a "
                f"{height}x{width} map: use a smaller grid, or leave this stage out",
            )
        local = torch.stack([self._patch_distance(s, t, self.grid) for s, t in both])
        return (1 - self.local_weight) * whole + self.local_weight * local

    def _patch_distance(self, student: Map, teacher: Map, grid: int) -> Float[Tensor, ""]:
        cells = zip(patches(student, grid), patches(teacher, grid), strict=True)
        return torch.stack([region_distance(s, t) for s, t in cells]).mean()

    def _angular_maps(self, attention_map: Map) -> tuple[Map, Map, Map]:
        cosine = cosine_with_margin(attention_map, self.margin, self.additive_margin, self._series)
        positive = self.scale * (cosine - self.cosine_margin)
        negative = self.scale * (1 - attention_map)
        difference = positive - negative
        angular = log_sigmoid(difference) if torch.compiler.is_compiling() else F.logsigmoid(difference)
        return angular, positive, negative


def cosine_with_margin(
    cosine: Float[Tensor, "*shape"], margin: float, additive_margin: float = 0.0, series: Series | None = None
) -> Float[Tensor, "*shape"]:
    """Return cos(margin * arccos(cosine) + additive_margin), with a finite gradient everywhere.

    The derivative margin * sin(margin * theta + additive_margin) / sin(theta) tends to margin**2 at theta = 0 when there is no
    additive margin; there the value is continued linearly with that slope. With an additive margin it diverges,
    and the last representable step before cosine = 1 is held constant instead.

    Args:
        cosine: cosines of angles, 0 <= cosine <= 1.
        margin: the factor of the angle.
        additive_margin: the angle that is added, in radians.
        series: of `cosine_series`, taken instead in compiled code, where a polynomial is cheaper than two trigonometric functions.
    """
    if series is not None and torch.compiler.is_compiling():
        return polynomial(2 * cosine - 1, series[cosine.dtype])
    last = 1 - torch.finfo(cosine.dtype).eps
    inside = cosine <= last
    theta = torch.arccos(torch.where(inside, cosine, 0.0))
    if additive_margin == 0:
        edge = 1 - margin**2 * (1 - cosine)
    else:
        edge = torch.full_like(cosine, math.cos(margin * math.acos(last) + additive_margin))
    return torch.where(inside, torch.cos(margin * theta + additive_margin), edge)


def region_distance(student: Map, teacher: Map) -> Float[Tensor, ""]:
    """Return a third of the mean squared difference of two maps, each of unit length over the positions of a sample.

    It sums over the positions first, so that compiled code has the batch to run in parallel.
    """
    difference = _unit(student) - _unit(teacher)
    return difference.square().sum(dim=(1, 2)).mean() / (3 * student.shape[1] * student.shape[2])


def patches(maps: Map, grid: int) -> Iterator[Map]:
    """Yield the grid x grid cells of the maps, row by row; where the grid does not divide a side, the first cells are longer."""
    for row in maps.tensor_split(grid, dim=-2):
        yield from row.tensor_split(grid, dim=-1)


def _unit(maps: Map) -> Map:
    return maps * maps.square().sum(dim=(1, 2), keepdim=True).clamp(min=LEAST_SQUARE).rsqrt()


def _margins(name: str, additive_margin: float, cosine_margin: float) -> tuple[float, float, float]:
    if name not in MARGINS:
        raise InputError(
            f"there is no margin '{name}'.{nearest(name, MARGINS)} Give a number, or one of {', '.join(MARGINS)}"
        )
    if additive_margin or cosine_margin:
        raise InputError(f"margin={name} sets all three margins: leave the others out, or give all three as numbers")
    return MARGINS[name]
