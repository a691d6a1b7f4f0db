"""Images in all the forms in which a caller has them, brought to a network's size exactly as in evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from angularkd.data import decode_image, fit, image_paths, read_image_file, to_rgb, to_unit
from angularkd.errors import InputError, short_repr

Size = tuple[int, int]
FORMS = (
    "the path of an image, a PIL image, a uint8 array [height, width, 3], a tensor [3, height, width] in 0..1, or a list or batch "
    "of these"
)


def image_files(paths: Iterable[str | Path]) -> list[str]:
    """Return files as they are, and of each folder the images below it, sorted.

    Raises:
        InputError: for what does not exist, and for a folder without images.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            inside = image_paths(Path(path))
            if not inside:
                raise InputError(f"the folder {path} holds no images: name another")
            found += inside
        elif os.path.lexists(path):
            found.append(str(path))
        else:
            raise InputError(f"there is no image {path}: name files, or folders of images")
    return found


def is_one(images: Any) -> bool:
    """Return whether a caller has given one image, rather than several."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return not isinstance(images, list | tuple)


def as_images(images: Any, size: Size) -> Float[Tensor, "batch 3 height width"]:
    """Return images in 0..1 at a size.

    Args:
        images: in one of FORMS.
        size: (height, width) in pixels. Whatever is of another size is scaled until it just covers it, and cut centrally, as 8-bit
            pixels, as in evaluation.

    Raises:
        InputError: for what is no image.
    """
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        return _from_floats(images, size)
    several: Sequence[Any] = [images] if is_one(images) else images
    if len(several) == 0:
        raise InputError("there are no images: give one at least")
    return torch.cat([_one(image, size) for image in several])


def _one(image: Any, size: Size) -> Float[Tensor, "1 3 height width"]:
    if isinstance(image, Tensor) and image.ndim == 3 and image.is_floating_point():
        return _from_floats(image[None], size)
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        if not os.path.lexists(path):
            raise InputError(f"there is no image {path}: name a file")
        return _scaled(decode_image(read_image_file(path, path), path), size)
    if isinstance(image, Image.Image):
        return _scaled(to_rgb(image, "the image"), size)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return _scaled(image.permute(1, 2, 0).contiguous().cpu().numpy(), size)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return _scaled(image, size)
    if isinstance(image, np.ndarray | Tensor):
        raise InputError(
            f"an image of {image.dtype} and shape {list(image.shape)} is none of the forms taken: give {FORMS}"
        )
    raise InputError(f"{short_repr(image)} is no image: give {FORMS}")


def _scaled(pixels: UInt8[np.ndarray, "_ _ 3"], size: Size) -> Float[Tensor, "1 3 height width"]:
    if 0 in pixels.shape:
        raise InputError(f"an image of shape {list(pixels.shape)} has no pixels: leave it out")
    return to_unit(torch.from_numpy(fit(pixels, size).copy())).permute(2, 0, 1)[None].contiguous()


def _from_floats(images: Tensor, size: Size) -> Float[Tensor, "batch 3 height width"]:
    if images.shape[1] != 3 or 0 in images.shape:
        raise InputError(
            f"images of shape {list(images.shape)} are not [batch, 3, height, width]: give RGB, channels first"
        )
    images = images.detach().cpu().float()
    if not (images.amin() >= 0 and images.amax() <= 1):  # NaN, too
        raise InputError(
            f"images of floating-point numbers are in 0..1, these are from {images.amin():.4g} to {images.amax():.4g}: give them "
            "before they are normalised, divided by 255 if need be"
        )
    if images.shape[-2:] == size:
        return images
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return torch.cat([_scaled(one, size) for one in pixels])
