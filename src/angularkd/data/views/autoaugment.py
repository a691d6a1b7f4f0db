"""TrivialAugment and RandAugment: which operation each sample of a view gets, how strongly, and torchvision's pixels.

Operations, their 31 strengths and their signs are those of torchvision.transforms.v2's TrivialAugmentWide and
RandAugment; a magnitude is rounded to float32 once, where torchvision's, from `torch.linspace`, may differ in the last
digit from machine to machine. The pixel work is torchvision's own, on 256 levels: nearest neighbour, black where an
image moved away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from angularkd.data.views.seeds import random_words

STRENGTHS = 31
"""How many strengths there are, from 0, the weakest, to 30."""

Range = tuple[float, float]


def trivial_ops(count: int, seed: int, view: int) -> dict[str, np.ndarray]:
    """Draw one operation a sample, and one of its strengths, all equally probable.

    Müller & Hutter, https://arxiv.org/abs/2103.10158, in its variant with the wide ranges of strengths.
    """
    strengths = random_words(count, "trivial augment", "strength", seed, view) % np.uint64(STRENGTHS)
    return _draw("trivial augment", count, WIDE_RANGES, strengths[:, None], seed, view)


def random_ops(
    count: int, image_size: tuple[int, int], num_ops: int, strength: int, seed: int, view: int
) -> dict[str, np.ndarray]:
    """Draw `num_ops` operations a sample, applied in turn, all equally probable and equally strong.

    Cubuk et al., https://arxiv.org/abs/1909.13719
    """
    return _draw("rand augment", count, random_ranges(image_size), np.full((count, num_ops), strength), seed, view)


def random_ranges(image_size: tuple[int, int]) -> dict[str, Range]:
    """Return the ranges of RandAugment; images move by at most 150 / 331 of their size (height, width)."""
    height, width = image_size
    return {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150 / 331 * width),
        "TranslateY": (0.0, 150 / 331 * height),
        "Rotate": (0.0, 30.0),
        "Brightness": (0.0, 0.9),
        "Color": (0.0, 0.9),
        "Contrast": (0.0, 0.9),
        "Sharpness": (0.0, 0.9),
        "Posterize": (8.0, 4.0),
        "Solarize": (1.0, 0.0),
    }


def magnitudes_of(ranges: Mapping[str, Range]) -> Float64[np.ndarray, "ops strengths"]:
    """Return the magnitude of every operation at every strength, evenly spaced over its range; 0 where it has none."""
    magnitudes = np.zeros((len(PIXEL_WORK), STRENGTHS))
    for row, name in enumerate(PIXEL_WORK):
        first, last = ranges.get(name, (0.0, 0.0))
        magnitudes[row] = first + (last - first) * np.arange(STRENGTHS) / (STRENGTHS - 1)
        if name == "Posterize":
            magnitudes[row] = np.rint(magnitudes[row])
    return magnitudes


def _draw(
    name: str, count: int, ranges: Mapping[str, Range], strengths: np.ndarray, seed: int, view: int
) -> dict[str, np.ndarray]:
    """Draw the columns `ops` and `magnitudes`, both [samples, operations a sample]."""
    shape = strengths.shape
    words = random_words(2 * strengths.size, name, "op and sign", seed, view).reshape(*shape, 2)
    ops = (words[..., 0] % np.uint64(len(PIXEL_WORK))).astype(np.int64)
    signed = np.array([op in SIGNED for op in PIXEL_WORK])
    mirrored = signed[ops] & (words[..., 1] % np.uint64(2) == 1)
    magnitudes = magnitudes_of(ranges)[ops, strengths.astype(np.int64)]
    return {"ops": ops.astype(np.uint8), "magnitudes": np.where(mirrored, -magnitudes, magnitudes).astype(np.float32)}


def auto_augment(
    images: UInt8[Tensor, "batch height width 3"],
    ops: UInt8[Tensor, "batch ops"],
    magnitudes: Float32[Tensor, "batch ops"],
) -> UInt8[Tensor, "batch height width 3"]:
    """Apply to each image its operations in turn: exactly what torchvision gives image by image.

    Images of the same operation and magnitude share one call: a turn of RandAugment needs at most 23, TrivialAugment one
    for every one or two images. Which calls these are is read from `ops` and `magnitudes`, for which a GPU is waited for.
    """
    for turn in zip(ops.T.tolist(), magnitudes.T.tolist(), strict=True):
        images = _one_turn(images, list(zip(*turn, strict=True)))
    return images


def _one_turn(
    images: UInt8[Tensor, "batch height width 3"], settings: list[tuple[int, float]]
) -> UInt8[Tensor, "batch height width 3"]:
    """Line up the images so that equal settings stand together, alter them run by run, and put them back."""
    order = sorted(range(len(settings)), key=settings.__getitem__)
    place = torch.tensor(order, device=images.device)
    ordered = images.index_select(0, place)
    planes = ordered.permute(0, 3, 1, 2)
    work = list(PIXEL_WORK.values())
    start = 0
    for (op, magnitude), run in groupby(order, key=settings.__getitem__):
        stop = start + len(list(run))
        planes[start:stop] = work[op](planes[start:stop], magnitude)
        start = stop
    return torch.empty_like(images).index_copy_(0, place, ordered)


Planes = UInt8[Tensor, "run 3 height width"]


def _shear(planes: Planes, right: float, down: float) -> Planes:
    """Shear about the upper left corner by so many pixels a pixel."""
    degrees = [math.degrees(math.atan(right)), math.degrees(math.atan(down))]
    return F.affine(planes, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _translate(planes: Planes, right: float, down: float) -> Planes:
    """Move by whole pixels, rounded towards zero."""
    return F.affine(planes, angle=0.0, translate=[int(right), int(down)], scale=1.0, shear=[0.0, 0.0])


PIXEL_WORK: dict[str, Callable[[Planes, float], Planes]] = {
    "Identity": lambda planes, _: planes,
    "ShearX": lambda planes, slope: _shear(planes, slope, 0.0),
    "ShearY": lambda planes, slope: _shear(planes, 0.0, slope),
    "TranslateX": lambda planes, pixels: _translate(planes, pixels, 0),
    "TranslateY": lambda planes, pixels: _translate(planes, 0, pixels),
    "Rotate": lambda planes, degrees: F.rotate(planes, angle=degrees),
    "Brightness": lambda planes, change: F.adjust_brightness(planes, brightness_factor=1.0 + change),
    "Color": lambda planes, change: F.adjust_saturation(planes, saturation_factor=1.0 + change),
    "Contrast": lambda planes, change: F.adjust_contrast(planes, contrast_factor=1.0 + change),
    "Sharpness": lambda planes, change: F.adjust_sharpness(planes, sharpness_factor=1.0 + change),
    "Posterize": lambda planes, bits: F.posterize(planes, bits=int(bits)),
    "Solarize": lambda planes, threshold: F.solarize(planes, threshold=255.0 * threshold),
    "AutoContrast": lambda planes, _: F.autocontrast(planes),
    "Equalize": lambda planes, _: F.equalize(planes),
}
"""What each operation does to images at a magnitude. The column `ops` counts them in this order."""

SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)
"""Operations whose magnitude is negative in every second case."""

WIDE_RANGES: dict[str, Range] = {
    "ShearX": (0.0, 0.99),
    "ShearY": (0.0, 0.99),
    "TranslateX": (0.0, 32.0),
    "TranslateY": (0.0, 32.0),
    "Rotate": (0.0, 135.0),
    "Brightness": (0.0, 0.99),
    "Color": (0.0, 0.99),
    "Contrast": (0.0, 0.99),
    "Sharpness": (0.0, 0.99),
    "Posterize": (8.0, 2.0),
    "Solarize": (1.0, 0.0),
}
"""Weakest and strongest magnitude of TrivialAugment's operations: slopes, pixels, degrees, changes of tone, bits that stay, and
the brightness from which on levels are inverted."""
