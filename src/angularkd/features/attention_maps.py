"""What losses do with attention maps: take them from features, bring them to one size and type, normalise them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from angularkd.errors import InputError
from angularkd.types import Reduction

LEAST_SQUARE = 1e-24
"""Least squared norm that is divided by, so that maps of zeros have a gradient."""


def to_map(features: Tensor, reduction: Reduction) -> Float[Tensor, "maps height width"]:
    """Return the maps that a loss compares, in float32 at least.

    Args:
        features: [batch, channel, height, width], which are reduced; or maps [maps, height, width], which are not.
        reduction: the mechanism that makes the maps.

    Raises:
        InputError: for features, where the mechanism needs more than them.
    """
    if features.ndim == 3:
        return widen(features)
    if reduction.source != "features":
        raise InputError(
            f"{reduction} cannot be computed from features alone: let a Distiller compute it, or pass its maps [batch, height, width]"
        )
    return reduction(features)


def widen(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return float16 and bfloat16 as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def match_sizes(
    first: Float[Tensor, "batch *channels_1 height_1 width_1"],
    second: Float[Tensor, "batch *channels_2 height_2 width_2"],
) -> tuple[Float[Tensor, "batch *channels_1 height width"], Float[Tensor, "batch *channels_2 height width"]]:
    """Average-pool two maps, or two features, to the smaller height and the smaller width of the two."""
    if first.shape[-2:] == second.shape[-2:]:
        return first, second
    size = (min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1]))
    return F.adaptive_avg_pool2d(first, size), F.adaptive_avg_pool2d(second, size)


def normalise(power_map: Float[Tensor, "batch height width"], eps: float) -> Float[Tensor, "batch height width"]:
    """Return the attention map Q = P / (||P||_F + eps), with the norm over height and width, so that 0 <= Q <= 1."""
    norm = power_map.square().sum(dim=(1, 2), keepdim=True).clamp(min=LEAST_SQUARE).sqrt()
    return (power_map * (1 / (norm + eps))).clamp(max=1.0)
