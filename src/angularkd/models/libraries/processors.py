"""What an image processor of transformers does to colours, found by asking it: it says so in ever other attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from angularkd.errors import InputError
from angularkd.models.preprocessing import Preprocessing, Size

SIDE = 64
"""Height and width in pixels of the images that the processor is asked about."""
TOLERANCE = 2e-3
"""Largest error of the map in the units of a colour in 0..1, half of one of 255 steps: processors round when they resize."""
PRIMARIES = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
CHECKED = ((255, 255, 255), (10, 200, 90), (77, 3, 141), (128, 128, 128))


def preprocessing_of(processor: Any, spec: str) -> Preprocessing:
    """Return the mean, standard deviation and order of channels by which a processor's output follows from colours.

    Args:
        processor: of a model of transformers.
        spec: of the model, for errors.

    Raises:
        InputError: where its output is no normalised image, or no such numbers give it.
    """
    remedy = "save the model to a folder without its preprocessor_config.json, and give `normalization`"
    try:
        colours = _answers(processor, (*PRIMARIES, *CHECKED))
    except Exception as error:  # of the library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the image processor of {spec} gives no images ({reason}): {remedy}") from None
    offset = colours[0]
    slopes = (colours[1:4] - offset).T  # of each of its channels, by red, green and blue
    scale = slopes.sum(dim=1)
    expected = offset + torch.tensor(CHECKED, dtype=torch.float64) / 255 @ slopes.T
    errors = ((expected - colours[4:]) / scale).abs()
    if not (bool((scale > 0).all()) and bool((errors <= TOLERANCE).all())):
        raise InputError(
            f"the image processor of {spec} does to colours what no mean and standard deviation of each channel do: {remedy}"
        )
    shares = _cleaned(slopes / scale[:, None])
    channels = tuple(tuple(row) for row in shares.tolist())
    plain = channels == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    mean, std = _numbers(-offset / scale, processor, "image_mean"), _numbers(1 / scale, processor, "image_std")
    return Preprocessing(mean, std, source="its image processor's", channels=None if plain else channels)


def size_of(processor: Any) -> Size | None:
    """Return the size to which the processor brings images in the end: its crop, else its size."""
    described = getattr(processor, "data_config", None) or {}  # of timm's models on the hub
    if "input_size" in described:
        return pair(described["input_size"][-2:])
    crops = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = crops or getattr(processor, "size", None)
    if size is None:
        return None
    given = dict(size) if not hasattr(size, "height") else {**vars(size)}
    height, width = given.get("height"), given.get("width")
    return (height, width) if height and width else pair(given.get("shortest_edge"))


def pair(size: Any) -> Size | None:
    """Return a size as (height, width), where it is one number or two."""
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None


def _answers(processor: Any, colours: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Return what becomes of a pixel amid an image of each colour [colours, channels]."""
    from PIL import Image

    for name in ("image_mean", "image_std"):  # a number stands for each channel, which not every processor knows
        if isinstance(getattr(processor, name, None), int | float):
            setattr(processor, name, [getattr(processor, name)] * 3)
    images = [Image.fromarray(np.full((SIDE, SIDE, 3), colour, dtype=np.uint8)) for colour in colours]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    if (
        not isinstance(pixels, Tensor)
        or pixels.ndim != 4
        or len(pixels) != len(colours)
        or pixels.shape[1] not in (1, 3)
    ):
        raise ValueError(f"but {list(getattr(pixels, 'shape', ()))} for {len(colours)}")
    return pixels[:, :, pixels.shape[2] // 2, pixels.shape[3] // 2].to(torch.float64)


def _cleaned(shares: Tensor) -> Tensor:
    """Return the shares of colours without the rounding in those that are nothing or everything."""
    whole = shares.round()
    return torch.where((shares - whole).abs() < TOLERANCE, whole, shares)


def _numbers(found: Tensor, processor: Any, name: str) -> tuple[float, ...]:
    """Return what was found, in the processor's own words where it has such, else without the noise of single precision."""
    own = getattr(processor, name, None)
    if isinstance(own, list | tuple) and len(own) == len(found):
        exact = [float(value) for value in own]
        if np.allclose(found.numpy(), exact, rtol=1e-5, atol=1e-5):
            return tuple(exact)
    return tuple(float(f"{value:.6g}") + 0.0 for value in found.tolist())
