"""AMD: angular margin-based distillation (Jeon, Choi, Shukla, Turaga, arXiv 2302.14130)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError, StageError, nearest
from angularkd.features.attention import LEAST_SQUARE, match_sizes, mechanism, normalise, to_map

Map = Float[Tensor, "batch height width"]
Series = dict[torch.dtype, tuple[float, ...]]

NEGLIGIBLE_FROM = 60.0
"""From where on exp(-x) adds nothing to 1, nor to float64's last digit of x."""

MARGINS: dict[str, tuple[float, float, float]] = {
    "sphereface": (1.35, 0.0, 0.0),
    "arcface": (1.0, 0.5, 0.0),
    "cosface": (1.0, 0.0, 0.35),
}
"""Named margins (m1, m2, m3): multiplicative, SphereFace (arXiv 1704.08063) with AMD's 1.35; additive, in radians, of ArcFace
(arXiv 1801.07698); of the cosine, of CosFace (arXiv 1801.09414)."""


class AMDLoss(nn.Module):
    """Distance between the angular distributions of teacher and student attention maps, summed over the stages.

    For one stage with attention map P, Q = P / (||P||_F + eps) (`angularkd.features.attention`) and angle theta = arccos(Q):

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
            margins makes the positive term exactly attention transfer. Or the name of all three in MARGINS:
            "sphereface", "arcface", "cosface".
        additive_margin: m2 in radians (ArcFace).
        cosine_margin: m3 (CosFace).
        scale: s, the radius of the hypersphere.
        power: exponent of the channel-wise power map; of several, [1, 2, 4], the mean of their losses is taken.
        grid: k of the k x k local patches ("fine-grained features"; the authors use 2), or None for the whole map alone.
        local_weight: w, the share of the patches in a stage's loss.
        attention: the mechanism that makes P, a name in `angularkd.features.attention.ATTENTIONS`.
        stage_weights: factor of each stage's loss, shallow to deep; None for 1 each.
        eps: added to the norm of P.

    `forward` takes two equally long sequences over the stages, each tensor either features
    [batch, channel, height, width] or a map P [batch, height, width] that was made already, and returns a
    scalar >= 0, of the order 1e-4 a stage: its weight is in the thousands. `by_map` returns its three parts. Where the sizes
    differ the larger P is average-pooled to the smaller. The teacher's side carries no gradient.
    Maps and angles are computed in float32 at least, whatever the autocast or the features' type.

    Raises InputError, naming the stage, for sequences of unequal length, unequal batches, a map of a single position
    (it has no direction, so no gradient), patches of fewer than two positions, and stage weights of another number.

    Departures from the authors' published code: logsigmoid for the difference of exponentials (theirs overflows in
    float32 from scale = 89 and in half precision always); the derivative of cos(margin * arccos Q) takes its finite limit
    at Q = 1; unequal sizes are matched; their local class, which does not run, follows the formula above.
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
        if not scale > 0:
            raise InputError(f"scale must be positive, got {scale}: the usual value is 64")
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
        return self.by_map(student_features, teacher_features).sum()

    def by_map(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Float[Tensor, 3]:
        """The loss in its three parts, which sum to it: of the angular, the positive and the negative maps."""
        if len(student_features) != len(teacher_features) or not student_features:
            raise InputError(
                f"AMD pairs stages one to one, got {len(student_features)} of the student and "
                f"{len(teacher_features)} of the teacher: pass two equally long, non-empty sequences"
            )
        weights = self.stage_weights or (1.0,) * len(student_features)
        if len(weights) != len(student_features):
            raise InputError(
                f"AMD got {len(weights)} stage_weights for {len(student_features)} paired stages: give one a stage"
            )
        device = student_features[0].device.type
        with torch.autocast(device, enabled=False):
            stages = enumerate(zip(weights, student_features, teacher_features, strict=True))
            return torch.stack([w * self._stage(i, s, t.detach()) for i, (w, s, t) in stages if w]).sum(dim=0)

    def maps(self, features: Tensor) -> Float[Tensor, "3 batch height width"]:
        """The angular, positive and negative maps (G, psi, n) of one stage's features, or of its map P, stacked."""
        return torch.stack(self._angular_maps(normalise(to_map(features, self.reduction), self.eps)))

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, 3]:
        student, teacher = to_map(student, self.reduction), to_map(teacher, self.reduction)
        if student.shape[0] != teacher.shape[0]:
            raise StageError(
                index, f"the student's batch holds {student.shape[0]} samples, the teacher's {teacher.shape[0]}"
            )
        student, teacher = match_sizes(student, teacher)
        height, width = student.shape[1:]
        if height * width < 2:
            raise StageError(
                index,
                f"a {height}x{width} map has no direction to learn: leave this stage out, or use larger images",
            )
        student_maps = self._angular_maps(normalise(student, self.eps))
        teacher_maps = self._angular_maps(normalise(teacher, self.eps))
        both = list(zip(student_maps, teacher_maps, strict=True))
        whole = torch.stack([region_distance(s, t) for s, t in both])
        if self.grid is None:
            return whole
        if height // self.grid * (width // self.grid) < 2:
            raise StageError(
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
    """cos(margin * arccos(cosine) + additive_margin) for 0 <= cosine <= 1, with a finite gradient everywhere.

    The derivative margin * sin(margin * theta + additive_margin) / sin(theta) tends to margin**2 at theta = 0 when there is no
    additive margin; there the value is continued linearly with that slope. With an additive margin it diverges,
    and the last representable step before cosine = 1 is held constant instead.

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


def cosine_series(margin: float, additive_margin: float = 0.0) -> Series | None:
    """Coefficients of cos(margin * arccos(q)), 0 <= q <= 1, as a polynomial in 2 q - 1, by the type of q.

    The function is even in the angle, so analytic at q = 1; its nearest singularity is q = -1, and Chebyshev interpolation
    gains a factor 3 + sqrt(8) with every degree: the error is below 1e-8 in float32, 1e-14 in float64.
    None with an additive margin, where it is not analytic, and for margins above 2, beyond half a turn of the cosine.
    """
    if additive_margin != 0 or margin > 2:
        return None
    return series_of(lambda q: np.cos(margin * np.arccos(q)))


class LogSigmoid(torch.autograd.Function):
    """log(1 / (1 + exp(-x))) for compiled code, where it is cheaper than PyTorch's own.

    Beyond |x| = 60 exp(-|x|) is left where it is: it adds nothing to float64, and below 1e-38 processors compute float32
    with numbers that are slow. For z = exp(-|x|) between 0 and 1, log(1 + z) / z is a polynomial.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        z = torch.exp(-x.abs().clamp(max=NEGLIGIBLE_FROM))
        return x.clamp(max=0) - z * polynomial(2 * z - 1, LOG1P_SERIES[x.dtype])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(-x.clamp(-NEGLIGIBLE_FROM, NEGLIGIBLE_FROM))


def log_sigmoid(x: Tensor) -> Tensor:
    """`LogSigmoid`, as a function."""
    return LogSigmoid.apply(x)  # type: ignore[no-untyped-call]


def series_of(function: Callable[[np.ndarray], np.ndarray]) -> Series:
    """Coefficients of a function on 0..1, interpolated at Chebyshev's points, as a polynomial in 2 x - 1, by the type of x."""
    return {
        dtype: tuple(
            Chebyshev.interpolate(function, degree, domain=[0, 1]).convert(kind=Polynomial, domain=[0, 1]).coef.tolist()
        )
        for dtype, degree in ((torch.float32, 10), (torch.float64, 20))
    }


LOG1P_SERIES = series_of(lambda z: np.log1p(z) / z)  # Chebyshev's points lie inside of 0..1


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """By Horner's rule, of coefficients from the lowest to the highest."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def region_distance(student: Map, teacher: Map) -> Float[Tensor, ""]:
    """A third of the mean squared difference of two maps, each brought to unit length over the positions of a sample.

    Summed over the positions first, so that compiled code has the batch to run in parallel.
    """
    difference = _unit(student) - _unit(teacher)
    return difference.square().sum(dim=(1, 2)).mean() / (3 * student.shape[1] * student.shape[2])


def patches(maps: Map, grid: int) -> Iterator[Map]:
    """The grid x grid cells of the maps, row by row; where the grid does not divide a side, the first cells are longer."""
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
