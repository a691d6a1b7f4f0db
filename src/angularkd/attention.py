"""Attention maps: what of a stage's features the student should look like.

An attention mechanism is a frozen, hashable callable from features [batch, channel, height, width] to maps
[batch, height, width]. Being hashable lets one map serve every loss that asks for it, and lets a hook keep the
map alone and drop the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from angularkd.errors import InputError


@dataclass(frozen=True)
class PowerMap:
    """Sum over the channels of |A|**power, in float32 at least (Zagoruyko & Komodakis, arXiv 1612.03928).

    P[b, h, w] = sum_c |A[b, c, h, w]| ** power. Half-precision features are widened first: their squares overflow.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power >= 1:
            raise InputError(f"power must be at least 1 for a finite gradient at zero, got {self.power}: use power=2")

    def __call__(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch height width"]:
        wide = widen(features)
        powered = wide.square() if self.power == 2 else wide.abs().pow(self.power)
        return powered.sum(dim=1)


def widen(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """float16 and bfloat16 as float32; float32 and float64 as they are."""
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
    """The attention map Q = P / (||P||_F + eps), with the norm over height and width, so that 0 <= Q <= 1."""
    norm = torch.linalg.vector_norm(power_map, dim=(1, 2), keepdim=True)
    return (power_map / (norm + eps)).clamp(max=1.0)
