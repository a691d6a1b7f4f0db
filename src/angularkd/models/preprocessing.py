"""What is done to images in 0..1 before a model: resized, its channels made of red, green and blue, normalised."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from angularkd.errors import InputError, nearest
from angularkd.system.compiling import made_once

Size = tuple[int, int]
"""Height and width in pixels."""

Channels = tuple[tuple[float, ...], ...]
"""The shares of red, green and blue in each of a model's channels."""

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of each channel, by name."""

LUMA: Channels = ((0.299, 0.587, 0.114),)
"""The one channel of a model of grey images: the luma of ITU-R BT.601, as Pillow's mode L has it."""
LARGEST_MEAN = 10.0
"""Magnitude of a mean of images in 0..1 beyond which it is no such thing."""
SMALLEST_STD, LARGEST_STD = 1e-6, 1e3
"""Standard deviations beyond which images become numbers that no network was trained on."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model needs done to images in 0..1: bring them to `size` (None: leave it), subtract `mean`, divide by `std`.

    Calling it maps [batch, 3, height, width] to [batch, channel, height, width], resized bilinearly with antialiasing where the size
    differs, the channels being red, green and blue, or what `channels` makes of these.

    Raises:
        InputError: for numbers that cannot be those of a normalisation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size | None = None
    source: str = ""
    channels: Channels | None = None

    def __post_init__(self) -> None:
        count = len(self.channels) if self.channels is not None else 3
        numbers = (*self.mean, *self.std, *(share for shares in self.channels or () for share in shares))
        reason = None
        if len(self.mean) != count or len(self.std) != count:
            reason = f"there must be a mean and a standard deviation for each of {count} channels"
        elif not all(map(math.isfinite, numbers)):
            reason = "these are no finite numbers"
        elif max(map(abs, self.mean)) > LARGEST_MEAN:
            reason = f"images are in 0..1, so a mean is no more than {LARGEST_MEAN:g}: divide those of 0..255 by 255"
        elif min(self.std) < SMALLEST_STD or max(self.std) > LARGEST_STD:
            reason = (
                f"images are in 0..1, so a standard deviation is between {SMALLEST_STD:g} and {LARGEST_STD:g}: "
                "divide those of 0..255 by 255"
            )
        if reason is not None:
            mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
            source = f" ({self.source})" if self.source else ""
            raise InputError(f"a normalization of mean {mean} and std {std}{source} cannot be: {reason}")

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channel new_h new_w"]:
        """Return the images as the model takes them."""
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        if self.channels is not None:
            images = torch.cat([_channel(images, shares) for shares in self.channels], dim=1)
        return (images - _constant(self.mean, images.device)) / _constant(self.std, images.device)

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        size = f", resized to {self.size[0]}x{self.size[1]}" if self.size else ""
        channels = f", {_described(self.channels)}" if self.channels is not None else ""
        return f"mean {mean}, std {std}{size}{channels}" + (f" ({self.source})" if self.source else "")

    def grey(self) -> Preprocessing:
        """Return the same for a model of one channel: the images' luma, normalised by the luma of mean and standard deviation."""
        (shares,) = LUMA
        mean, std = (
            (sum(share * value for share, value in zip(shares, values, strict=True)),)
            for values in (self.mean, self.std)
        )
        return replace(self, mean=mean, std=std, channels=LUMA)


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation from a name in NORMALIZATIONS or from 'm,m,m/s,s,s'.

    Raises:
        InputError: for any other text, and for a standard deviation that is not positive.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise InputError(
            f"normalization '{text}' is not known.{nearest(text, NORMALIZATIONS)} "
            f"Use {', '.join(NORMALIZATIONS)}, or six numbers m,m,m/s,s,s"
        )
    return mean, std


def _channel(images: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Return one channel of a model [batch, 1, height, width]; one that is red, green or blue alone is no sum, hence exact."""
    if sorted(shares) == [0.0, 0.0, 1.0]:
        place = shares.index(1.0)
        return images[:, place : place + 1]
    return (images * _constant(shares, images.device)).sum(dim=1, keepdim=True)


def _described(channels: Channels) -> str:
    if channels == LUMA:
        return "grey"
    if all(sorted(shares) == [0.0, 0.0, 1.0] for shares in channels):
        return "".join("RGB"[shares.index(1.0)] for shares in channels)
    return "channels " + " ".join(
        "+".join(f"{share:.2f}{c}" for share, c in zip(row, "RGB", strict=True)) for row in channels
    )


@made_once
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one number a channel, on the device once and for all: no copy, hence no wait, in a step."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
