"""Boxes drawn for every sample of a view: the part that a resized crop enlarges, and the part that random erasing blackens."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float64, Int16, Int64

from angularkd.data.views.seeds import uniforms

ATTEMPTS = 10
ERASED_SCALE = (0.02, 0.33)
"""Least and largest share of the image's area that is erased, as in torchvision's RandomErasing."""
ERASED_RATIO = (0.3, 3.3)
"""Least and largest height / width of it."""

Boxes = Int16[np.ndarray, "samples 4"]
"""Top, left, height and width in pixels."""


def crop_boxes(
    count: int,
    image_size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    seed: int,
    view: int,
) -> Boxes:
    """Draw the boxes of a resized crop, in the distribution of torchvision's RandomResizedCrop; `ratio` is width / height.

    Area and ratio are drawn until the crop fits in the image, at most ten times; after that the crop is central, and as
    large as the limits of the ratio allow.
    """
    boxes, missing = _fitting_boxes("resized crop", count, image_size, image_size, scale, ratio, seed, view)
    boxes[missing] = _central_box(image_size, ratio)
    return boxes


def erased_boxes(count: int, image_size: tuple[int, int], probability: float, seed: int, view: int) -> Boxes:
    """Draw the boxes that random erasing blackens, in the distribution of torchvision's RandomErasing; zeros where nothing.

    With `probability`, area and ratio are drawn until the box is smaller than the image both ways, at most ten times;
    after that nothing is erased. Zhong et al., https://arxiv.org/abs/1708.04896
    """
    height, width = image_size
    width_over_height = (1 / ERASED_RATIO[1], 1 / ERASED_RATIO[0])
    limit = (height - 1, width - 1)
    boxes, missing = _fitting_boxes("erase", count, image_size, limit, ERASED_SCALE, width_over_height, seed, view)
    boxes[missing | (uniforms(count, "erase", "whether", seed, view) >= probability)] = 0
    return boxes


def _fitting_boxes(
    name: str,
    count: int,
    image_size: tuple[int, int],
    limit: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    seed: int,
    view: int,
) -> tuple[Boxes, Bool[np.ndarray, " samples"]]:
    """Draw boxes of random area, ratio (width / height) and place, no larger than `limit`; and tell which samples got none.

    The area is drawn evenly, the ratio evenly in its logarithm.
    """
    height, width = image_size
    boxes = np.zeros((count, 4), dtype=np.int16)
    open_rows: Int64[np.ndarray, " open"] = np.arange(count)

    def draw(what: str) -> Float64[np.ndarray, " samples"]:
        return uniforms(count, name, what, seed, view)

    where_down, where_right = draw("top"), draw("left")
    for attempt in range(ATTEMPTS):
        if len(open_rows) == 0:
            break
        area = _between(*scale, draw(f"area {attempt}")[open_rows]) * (height * width)
        shape = np.exp(_between(math.log(ratio[0]), math.log(ratio[1]), draw(f"ratio {attempt}")[open_rows]))
        box_height, box_width = np.rint(np.sqrt(area / shape)), np.rint(np.sqrt(area * shape))
        fits = (box_height > 0) & (box_height <= limit[0]) & (box_width > 0) & (box_width <= limit[1])
        rows, box_height, box_width = open_rows[fits], box_height[fits], box_width[fits]
        top = np.floor(where_down[rows] * (height - box_height + 1))
        left = np.floor(where_right[rows] * (width - box_width + 1))
        boxes[rows] = np.stack([top, left, box_height, box_width], axis=1)
        open_rows = open_rows[~fits]
    return boxes, boxes[:, 2] == 0


def _between(least: float, largest: float, unit: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return least + (largest - least) * unit


def _central_box(image_size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    height, width = image_size
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return ((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
