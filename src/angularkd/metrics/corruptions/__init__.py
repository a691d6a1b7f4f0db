"""Common corruptions of photographs, made as they are needed (Hendrycks & Dietterich, arXiv 1903.12261).

CORRUPTIONS is the table of them: fourteen of the paper's fifteen; frost is made of photographs of frosted glass. Constants are those of
its code (github.com/hendrycks/robustness, ImageNet-C/create_c): `make_cifar_c.py` for images of at most SMALL pixels a side, else
`make_imagenet_c.py`.

To add one, write a function from images, draws and a constant to images in the file of its kind, and a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.metrics.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from angularkd.metrics.corruptions.digital import elastic_transform, jpeg_compression, pixelate
from angularkd.metrics.corruptions.draws import Draws, Images
from angularkd.metrics.corruptions.light import brightness, contrast
from angularkd.metrics.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from angularkd.metrics.corruptions.weather import fog, snow

SMALL = 64
"""Longest side, in pixels, of images that are corrupted as those of CIFAR are."""
SEVERITIES = (1, 2, 3, 4, 5)
OF_224 = 244 / 224
"""The published code warps images of 224 pixels as if they had 244."""


@dataclass(frozen=True)
class Corruption:
    """A row of the table.

    Attributes:
        apply: returns corrupted images; their values may leave 0..1.
        small: its constant for small images, by severity.
        large: its constant for others, by severity.
    """

    apply: Callable[[Images, Draws, Any], Images]
    small: tuple[Any, ...]
    large: tuple[Any, ...]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Corruption(
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    ),
    "zoom_blur": Corruption(
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": Corruption(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": Corruption(
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        (
            (2 * OF_224, 0.7 * OF_224, 0.1 * OF_224),
            (2 * OF_224, 0.08 * OF_224, 0.2 * OF_224),
            (0.05 * OF_224, 0.01 * OF_224, 0.02 * OF_224),
            (0.07 * OF_224, 0.01 * OF_224, 0.02 * OF_224),
            (0.12 * OF_224, 0.01 * OF_224, 0.02 * OF_224),
        ),
    ),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def corrupt(
    images: Float[Tensor, "batch 3 height width"], indices: Int[Tensor, " batch"], name: str, severity: int
) -> Float[Tensor, "batch 3 height width"]:
    """Return corrupted images, of 8 bits a channel as files hold them.

    Args:
        images: in 0..1, on any device.
        indices: the row of each image in its split: what is random depends on it, not on the batch.
        name: in CORRUPTIONS.
        severity: 1 to 5.
    """
    row = CORRUPTIONS[name]
    constants = row.small if max(images.shape[2:]) <= SMALL else row.large
    given = images.double().cpu().contiguous().numpy()
    changed = row.apply(given, Draws(name, severity, indices.tolist()), constants[severity - 1])
    eight_bits = np.rint(np.clip(changed, 0, 1) * 255) / 255
    return torch.from_numpy(eight_bits).to(device=images.device, dtype=images.dtype)
