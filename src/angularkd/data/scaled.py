"""Scaled reading: the part of an image that a view crops, from the image's own pixels, by one resize and no finer a decoding
than that needs.

A box is given in pixels of the fitted image (`in_memory.fit`: scaled until it just covers the image size, cut centrally).
The resident loader reads it there, so the pixels in a small box were made fewer before they are made more again. Here the
box is mapped back into the original and resized once, bilinear with antialiasing: the same framing, sharper. Without a
box both give the same pixels to the bit.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's scaled inverse transform) where that leaves the box at least
REDUCTION_MARGIN times as many pixels a side as are returned. On photographs this changes the result by 0.5 to 0.9 levels
of 255 in the mean, 10 at most; with a margin of 1 it would be 1 to 2.2, and 49.
"""

# Ours: torchvision decodes a JPEG at its full size alone, which for small images costs several times what they need.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from angularkd.data.decode import ORIENTATION_TAG, PILLOW_SILENT, decode_image, open_image
from angularkd.data.in_memory import fit
from angularkd.data.stores import EncodedStore, Store

REDUCTION_MARGIN = 1.5
REDUCTIONS = (8, 4, 2)
SIDEWAYS = (5, 6, 7, 8)
FROM_THE_RIGHT = (2, 3, 6, 7)
FROM_THE_BOTTOM = (3, 4, 7, 8)
"""EXIF orientations: width and height change places; the first upright column, or row, is stored last."""


class Region(NamedTuple):
    """A rectangle in pixels of an image, upright; edges may lie between pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def resize(self, image: Image.Image, image_size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """Resize the rectangle to (height, width)."""
        box = (self.left, self.top, min(self.right, image.width), min(self.bottom, image.height))
        return np.asarray(image.resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR, box=box))

    def pixels_for_one(self, image_size: tuple[int, int]) -> float:
        """Return how many pixels of the image become one at `image_size`, along the axis where these are fewer."""
        return min((self.bottom - self.top) / image_size[0], (self.right - self.left) / image_size[1])

    def reduced(self, reduction: int, shift_right: int, shift_down: int) -> Region:
        """Return where it lies in an image of which `reduction` pixels a side are one, behind a margin of so many pixels."""
        return Region(
            (self.left + shift_right) / reduction,
            (self.top + shift_down) / reduction,
            (self.right + shift_right) / reduction,
            (self.bottom + shift_down) / reduction,
        )


def read_scaled(
    store: Store, row: int, image_size: tuple[int, int], box: Int[np.ndarray, " 4"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Read one image of a store at `image_size`: fitted, or of the fitted image one box, enlarged.

    Pixels next to the box play a part in its outermost pixels, as an antialiased resize weighs them.

    Args:
        store: Where the image is.
        row: Its row.
        image_size: (height, width) of the result.
        box: Top, left, height and width in pixels of the fitted image; None for all of it.

    Raises:
        InputError: The image cannot be decoded.
    """
    if box is None:
        return fit(store.image(row), image_size)
    if isinstance(store, EncodedStore):
        data, name = store.encoded(row)
        pixels = _read_reduced(data, image_size, box)
        if pixels is not None:
            return pixels
        image = decode_image(data, name)
    else:
        image = store.image(row)
    return region_of(box, image_size, image.shape[:2]).resize(Image.fromarray(image), image_size)


def region_of(box: Int[np.ndarray, " 4"], image_size: tuple[int, int], original_size: tuple[int, ...]) -> Region:
    """Return where a box of the fitted image lies in the original.

    Args:
        box: Top, left, height and width in pixels of the fitted image.
        image_size: (height, width) of the fitted image.
        original_size: (height, width) of the original.
    """
    height, width = original_size
    scale = min(height / image_size[0], width / image_size[1])  # pixels of the original for one of the fitted image
    top, left = (height - scale * image_size[0]) / 2, (width - scale * image_size[1]) / 2
    box_top, box_left, box_height, box_width = (float(value) for value in box)
    return Region(
        left + scale * box_left,
        top + scale * box_top,
        left + scale * (box_left + box_width),
        top + scale * (box_top + box_height),
    )


def _read_reduced(
    data: bytes, image_size: tuple[int, int], box: Int[np.ndarray, " 4"]
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Read a JPEG decoded at a reduced size; return None where it must be decoded whole, or where something is wrong."""
    with PILLOW_SILENT:
        return _decode_reduced(data, image_size, box)


def _decode_reduced(
    data: bytes, image_size: tuple[int, int], box: Int[np.ndarray, " 4"]
) -> UInt8[np.ndarray, "height width 3"] | None:
    try:
        image = open_image(data, "")
        if not isinstance(image, JpegImageFile):
            return None
        orientation = image.getexif().get(ORIENTATION_TAG)
        stored_size = (image.width, image.height)
        upright_size = stored_size if orientation in SIDEWAYS else stored_size[::-1]
        region = region_of(box, image_size, upright_size)
        spare = region.pixels_for_one(image_size) / REDUCTION_MARGIN
        reduction = next((reduction for reduction in REDUCTIONS if reduction <= spare), None)
        if reduction is None:
            return None
        image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        if orientation in range(2, 9):
            image = ImageOps.exif_transpose(image)
    except Exception:  # a malformed file raises anything; decoded whole, it gets the words of `decode_image`
        return None
    # The last column and row of the reduced image reach beyond the original where its sides are no multiples.
    beyond_right = reduction * image.width - upright_size[1] if orientation in FROM_THE_RIGHT else 0
    beyond_bottom = reduction * image.height - upright_size[0] if orientation in FROM_THE_BOTTOM else 0
    return region.reduced(reduction, beyond_right, beyond_bottom).resize(image.convert("RGB"), image_size)
