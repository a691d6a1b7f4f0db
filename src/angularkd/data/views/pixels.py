"""What the parameters in a view's table do to a batch of images: batched tensor operations, on whatever device."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def shift_and_flip(
    images: UInt8[Tensor, "batch height width 3"],
    flip: Bool[Tensor, " batch"] | None,
    top: Int[Tensor, " batch"] | None,
    left: Int[Tensor, " batch"] | None,
    padding: int,
) -> UInt8[Tensor, "batch height width 3"]:
    """Crop at (top, left), from -padding to padding, and then mirror where `flip`: one gather of image rows.

    The batch is laid out twice, as it is and mirrored, with a black border. Every row of the result is `width`
    consecutive pixels of that buffer: one of the overlapping windows over it, known by its first pixel.
    """
    if flip is None and top is None:
        return images
    batch, height, width, _ = images.shape
    border = 0 if top is None else padding
    orientations = 1 if flip is None else 2
    padded_height, padded_width = height + 2 * border, width + 2 * border
    buffer = images.new_zeros(orientations, batch, padded_height, padded_width, 3)
    inner = buffer[:, :, border : border + height, border : border + width]
    inner[0] = images
    if flip is not None:
        inner[1] = images.flip(2)

    image = torch.arange(batch, device=images.device)
    zero = torch.zeros_like(image)
    down, right = (zero, zero) if top is None or left is None else (top.long(), left.long())
    if flip is not None:
        image, right = image + batch * flip, torch.where(flip, -right, right)
    start = (image * padded_height + border + down) * padded_width + border + right
    starts = start[:, None] + padded_width * torch.arange(height, device=images.device)
    windows = buffer.view(-1).as_strided((buffer.numel() // 3 - width + 1, 3 * width), (3, 1))
    return windows.index_select(0, starts.view(-1)).view(batch, height, width, 3)


def to_unit(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn levels 0..255 into float32 in 0..1, to the same bits on every device.

    It divides by a tensor, because CUDA replaces division by a number with multiplication by a rounded 1 / 255.
    """
    return images.float().div_(torch.full((), 255.0, device=images.device))


def to_levels(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Return the nearest level 0..255 of values in 0..1: the inverse of `to_unit`."""
    return images.mul(255.0).round_().to(torch.uint8)


def resized_crop(
    images: UInt8[Tensor, "batch height width 3"], box: Int[Tensor, "batch 4"], flip: Bool[Tensor, " batch"] | None
) -> Float[Tensor, "batch 3 height width"]:
    """Enlarge each box (top, left, height, width) to the whole image, bilinearly, and mirror where `flip`.

    Pixels outside the box play no part, as after cropping. Reads by grid_sample, always in float32.
    """
    _, height, width, _ = images.shape
    top, left, box_height, box_width = box.float().unbind(1)
    down = _source_coordinates(top, box_height, height)
    right = _source_coordinates(left, box_width, width)
    if flip is not None:
        right = torch.where(flip[:, None], right.flip(1), right)
    shape = (-1, height, width)
    grid = torch.stack([right[:, None, :].expand(shape), down[:, :, None].expand(shape)], dim=-1)
    planes = to_unit(images).permute(0, 3, 1, 2)
    sampled = torch.nn.functional.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.contiguous(memory_format=torch.channels_last)


def erase(
    images: Float[Tensor, "batch 3 height width"], box: Int[Tensor, "batch 4"]
) -> Float[Tensor, "batch 3 height width"]:
    """Blacken each box (top, left, height, width); one without extent erases nothing."""
    height, width = images.shape[2:]
    top, left, box_height, box_width = box.long()[:, :, None].unbind(1)
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows = (row >= top) & (row < top + box_height)
    in_columns = (column >= left) & (column < left + box_width)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return images.clone().masked_fill_(inside, 0.0)


def _source_coordinates(
    start: Float[Tensor, " batch"], length: Float[Tensor, " batch"], size: int
) -> Float[Tensor, "batch size"]:
    """Return where in the image each of `size` output pixels is read, in grid_sample's units: -1 and 1 are the image's edges.

    Pixel j reads start + (j + 1/2) * length / size - 1/2, held between the first and the last pixel of the crop.
    """
    centres = (torch.arange(size, device=start.device) + 0.5) / size
    pixel = centres * length[:, None] - 0.5
    pixel = torch.minimum(pixel.clamp(min=0.0), length[:, None] - 1.0) + start[:, None]
    return (2.0 * pixel + 1.0) / size - 1.0
