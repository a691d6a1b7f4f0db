"""AMD: angular margin-based distillation (Jeon, Choi, Shukla, Turaga, arXiv 2302.14130)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError, nearest, short_repr
from angularkd.features import LEAST_SQUARE, mechanism, normalise, to_map
from angularkd.losses.checks import full_precision, map_pair, require_paired, require_positive
from angularkd.losses.polynomials import Series, cosine_series, log_sigmoid, polynomial

Map = Float[Tensor, "batch height width"]

MARGINS: dict[str, tuple[float, float, float]] = {
    "sphereface": (1.35, 0.0, 0.0),
    "arcface": (1.0, 0.5, 0.0),
    "cosface": (1.0, 0.0, 0.35),
}
"""Named margins (m1, m2, m3): multiplicative, SphereFace (arXiv 1704.08063) with AMD's 1.35; additive, in radians, of ArcFace
(arXiv 1801.07698); of the cosine, of CosFace (arXiv 1801.09414)."""

NORMALIZATIONS = ("norm", "max")
TERMS = ("angular", "positive", "negative")
"""The terms of the loss, in the order of `AMDLoss.by_map`."""
BALANCED = "balanced"
LEAST_VARIATION = 1e-5
"""Least norm of a map less its mean beside the map's own norm: below it is what rounding in float32 leaves of a constant."""


class AMDLoss(nn.Module):
    """The distance between the angular distributions of teacher's and student's attention maps, summed over the stages.

    For one stage with attention map P, Q = P / (||P||_F + eps) (`angularkd.features`) and angle theta = arccos(Q):

        positive   psi = scale * (cos(margin * theta + additive_margin) - cosine_margin)
        negative   n   = scale * (1 - Q)
        angular    G   = psi - log(exp(psi) + exp(n)) = logsigmoid(psi - n)
        L(region)  = 1/3 * sum over x in (G, psi, n) of mse(unit(x_student), unit(x_teacher))
        L_stage    = L(whole map)                                                       without a grid
                   = (1 - local_weight) * L(whole map) + local_weight * mean over patches of L(patch)

    unit(x) divides by the Euclidean norm over the positions of one sample within the region; mse is the mean over
    batch and positions. Patches are the cells of a grid x grid cut of maps normalised as a whole; a map too small for cells of two
    positions is compared whole. With some `terms` alone, x goes over these; they keep the factor of 1/3.

    Centred (`centered=True`, not in the paper), unit(x - mean(x)) stands for unit(x), the mean over the same positions: a
    correlation of maps in the place of a cosine. Q is small on all but small maps (||Q||_F = 1), so psi is nearly a constant
    map there, which a cosine counts and a correlation does not.

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
        stage_weights: factor of each stage's loss, shallow to deep; None for 1 each, or "balanced", which undoes the division by the
            positions (H * W times, squared in the form that is not centred) that makes the smallest map nearly all of the sum. A
            stage of weight 0 is not computed.
        eps: added to the norm of P.
        centered: whether maps are compared less their means: a correlation in the place of a cosine.
        normalization: what P is divided by to give Q: "norm", its Frobenius norm (the paper's), or "max", its largest value, which
            makes Q a map between 0 and 1 whatever its size.
        terms: which of "angular", "positive" and "negative" are summed: names in a sequence, or as text "angular,positive". A term
            that is left out is 0 in `by_map`.

    Raises:
        InputError: for an option out of its range, and a margin, attention or term of an unknown name.

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
        stage_weights: Sequence[float] | str | None = None,
        eps: float = 1e-6,
        centered: bool = False,
        normalization: str = "norm",
        terms: Sequence[str] | str = TERMS,
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
        if isinstance(stage_weights, str):
            if stage_weights != BALANCED:
                raise InputError(f"stage_weights must be numbers, one a stage, or {BALANCED}, got '{stage_weights}'")
        elif stage_weights is not None and (min(stage_weights, default=-1) < 0 or not any(stage_weights)):
            raise InputError(f"stage_weights must be numbers >= 0, one a stage and one above 0, got {stage_weights}")
        if normalization not in NORMALIZATIONS:
            raise InputError(
                f"there is no normalization '{normalization}'.{nearest(normalization, NORMALIZATIONS)} "
                f"Use {' or '.join(NORMALIZATIONS)}"
            )
        self.margin = margin
        self.additive_margin = additive_margin
        self.cosine_margin = cosine_margin
        self.scale = scale
        self.grid = grid
        self.local_weight = local_weight
        self.balanced = stage_weights == BALANCED
        self.stage_weights = (
            tuple(map(float, stage_weights)) if stage_weights is not None and not self.balanced else None
        )
        self.eps = eps
        self.centered = centered
        self.normalization = normalization
        self.terms = _terms(terms)
        self.kept = tuple(term in self.terms for term in TERMS)
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
                no direction, so no gradient), and stage weights of another number.
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
        return torch.stack(self._angular_maps(self._attention(to_map(features, self.reduction))))

    def notes(self, sizes: Sequence[tuple[int, int]]) -> list[str]:
        """Return what is to be said of stages whose maps are compared at these (height, width): which are too small for the grid."""
        if self.grid is None:
            return []
        small = [f"{height}x{width}" for height, width in sizes if not fits_grid((height, width), self.grid)]
        return (
            [f"maps of {' and '.join(small)} are too small for a grid of {self.grid}: they are compared whole"]
            if small
            else []
        )

    def _stage(self, index: int, student: Tensor, teacher: Tensor) -> Float[Tensor, 3]:
        student, teacher = map_pair(index, student, teacher, self.reduction)
        student_maps = self._angular_maps(self._attention(student))
        teacher_maps = self._angular_maps(self._attention(teacher))
        both = [(s, t) for s, t, kept in zip(student_maps, teacher_maps, self.kept, strict=True) if kept]
        distance = torch.stack([region_distance(s, t, self.centered) for s, t in both])
        height, width = student.shape[1:]
        if self.grid is not None and fits_grid((height, width), self.grid):
            local = torch.stack([self._patch_distance(s, t, self.grid) for s, t in both])
            distance = (1 - self.local_weight) * distance + self.local_weight * local
        distance = distance * float(height * width) ** (1 if self.centered else 2) if self.balanced else distance
        return distance if all(self.kept) else self._with_zeros(distance)

    def _with_zeros(self, distance: Float[Tensor, " kept"]) -> Float[Tensor, 3]:
        """Return the distances of the terms that are kept in their places, and 0 for the others."""
        kept = iter(distance.unbind())
        return torch.stack([next(kept) if term else distance.new_zeros(()) for term in self.kept])

    def _patch_distance(self, student: Map, teacher: Map, grid: int) -> Float[Tensor, ""]:
        cells = zip(patches(student, grid), patches(teacher, grid), strict=True)
        return torch.stack([region_distance(s, t, self.centered) for s, t in cells]).mean()

    def _attention(self, power_map: Map) -> Map:
        """Return the attention map Q of a map P."""
        if self.normalization == "norm":
            return normalise(power_map, self.eps)
        return power_map / (power_map.amax(dim=(1, 2), keepdim=True) + self.eps)

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


def region_distance(student: Map, teacher: Map, centered: bool = False) -> Float[Tensor, ""]:
    """Return a third of the mean squared difference of two maps, each of unit length over the positions of a sample.

    It sums over the positions first, so that compiled code has the batch to run in parallel.

    Args:
        student: [batch, height, width].
        teacher: the same of the teacher.
        centered: whether each map is taken less its mean first.
    """
    unit = _unit_of_variation if centered else _unit
    difference = unit(student) - unit(teacher)
    return difference.square().sum(dim=(1, 2)).mean() / (3 * student.shape[1] * student.shape[2])


def patches(maps: Map, grid: int) -> Iterator[Map]:
    """Yield the grid x grid cells of the maps, row by row, cut at floor(i * side / grid): 7 positions become 3 and 4."""
    height, width = maps.shape[-2:]
    for row in maps.tensor_split(_cuts(height, grid), dim=-2):
        yield from row.tensor_split(_cuts(width, grid), dim=-1)


def fits_grid(size: tuple[int, int], grid: int) -> bool:
    """Return whether every cell of a grid on a map of (height, width) has two positions or more."""
    return (size[0] // grid) * (size[1] // grid) >= 2


def _cuts(side: int, grid: int) -> list[int]:
    return [i * side // grid for i in range(1, grid)]


def _unit_of_variation(maps: Map) -> Map:
    """Return maps less their means, of unit length; by the map's own length where they vary no more than rounding leaves of a constant."""
    variation = maps - maps.mean(dim=(1, 2), keepdim=True)
    squares, whole = (values.square().sum(dim=(1, 2), keepdim=True) for values in (variation, maps.detach()))
    varies = squares > LEAST_VARIATION**2 * whole
    return variation * torch.where(varies, squares, whole).clamp(min=LEAST_SQUARE).rsqrt()


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


def _terms(given: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names in the order of TERMS. Raise InputError unless they are such, each once, and one at least."""
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not names or any(names.count(name) > 1 for name in names):
        raise InputError(f"terms must name some of {', '.join(TERMS)}, each once, got {short_repr(given)}")
    for name in names:
        if name not in TERMS:
            raise InputError(
                f"there is no term {short_repr(name)}.{nearest(str(name), TERMS)} Name some of {', '.join(TERMS)}: "
                "terms=[angular,positive]"
            )
    return tuple(name for name in TERMS if name in names)
