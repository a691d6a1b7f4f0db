"""Augmentation as tables: for a view of the data set, all parameters of all samples at once, one row a sample.

Sample i in view v is the same image on every device, in every process and in every run with the same seed, so whatever
a teacher says about it can be stored under (i, v).

`flip` and `crop` have finitely many outcomes (variants). A sample visits each once in `count` consecutive views:

    variant(i, v) = (offset_i + stride_i * v) mod count        stride_i coprime with count

with offset_i and stride_i drawn from the seed, so that samples differ in their order. `flip` is the last binary digit
of the variant (strides are odd then), so a sample is mirrored in every second view. The other operations have
infinitely many outcomes, or nearly: their parameters are drawn for each view, from the seed and the view's number.

An image is first framed (`flip`, `crop`, `resized_crop`: which part of it remains), then altered, by `trivial_augment` or
`rand_augment`, then by `erase`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from angularkd.data.views.autoaugment import STRENGTHS, auto_augment, random_ops, trivial_ops
from angularkd.data.views.boxes import crop_boxes, erased_boxes
from angularkd.data.views.pixels import erase, resized_crop, shift_and_flip, to_levels, to_unit
from angularkd.data.views.seeds import random_words
from angularkd.errors import InputError, nearest


@dataclass(frozen=True, eq=False)
class ViewTable:
    """The parameters of one view, by column, one row a sample; without columns, the images as they are.

    Attributes:
        columns: By name, where the view has them:
            flip: bool [samples]. Whether the image is mirrored left and right, after cropping.
            top, left: int16 [samples]. Where the crop begins, in pixels of the image; beyond the image is black.
            box: int16 [samples, 4]. Top, left, height and width of the part that is enlarged to the whole.
            ops: uint8 [samples, turns]. What is done to the framed image, turn by turn: a place in `PIXEL_WORK`.
            magnitudes: float32 [samples, turns]. How strongly, with its sign.
            erased: int16 [samples, 4]. Top, left, height and width of what is blackened at the end; zeros for nothing.
    """

    columns: Mapping[str, Tensor]

    def rows(self, indices: Int[Tensor, " batch"]) -> ViewTable:
        """Return the rows of a batch, whose indices must be on the table's device."""
        return ViewTable({name: column.index_select(0, indices) for name, column in self.columns.items()})

    def to(self, device: torch.device | str) -> ViewTable:
        """Return the table on a device."""
        return ViewTable({name: column.to(device) for name, column in self.columns.items()})


@dataclass(frozen=True)
class Views:
    """All views of a split under some operations.

    Attributes:
        ops: Names from OPS, in any order.
        num_samples: Rows of a table.
        image_size: (height, width) in pixels of the images, before and after.
        seed: What everything random here depends on.
        padding: The most that `crop` shifts an image, in pixels; None for an eighth of the smaller side.
        scale: Least and largest share of the image's area that `resized_crop` enlarges.
        ratio: Least and largest width / height of it, drawn evenly in its logarithm.
        num_ops: How many operations `rand_augment` applies to an image.
        strength: How strong they are, from 0 to 30.
        erase_probability: Share of the images that lose a part by `erase`.
        limit: How many views there are at most, also where the operations have more, or endlessly many; None for all. What all
            views of finitely many operations fit into is no limit.

    Raises:
        InputError: Operations are unknown, repeated or cannot be combined, or parameters are out of range.
    """

    ops: tuple[str, ...]
    num_samples: int
    image_size: tuple[int, int]
    seed: int = 0
    padding: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    num_ops: int = 2
    strength: int = 9
    erase_probability: float = 0.5
    limit: int | None = None

    def __post_init__(self) -> None:
        for op in self.ops:
            if op not in OPS:
                raise InputError(f"unknown augmentation {op!r}: expected some of {', '.join(OPS)}.{nearest(op, OPS)}")
        if len(set(self.ops)) < len(self.ops):
            raise InputError(f"an augmentation is named twice in {', '.join(self.ops)}; name each once.")
        for first, second, what in EXCLUSIVE:
            if {first, second} <= set(self.ops):
                raise InputError(f"{first} and {second} both choose {what}; take one of them.")
        if self.padding is None:
            object.__setattr__(self, "padding", min(self.image_size) // 8)
        if "crop" in self.ops and not 0 < self.padding_px < min(self.image_size):
            raise InputError(
                f"crop: the padding must be above 0 and below the image's {min(self.image_size)} pixels, got "
                f"{self.padding}: leave crop out for images this small, as in `augment=flip`."
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"resized_crop: the scale must satisfy 0 < least <= largest <= 1, got {self.scale}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"resized_crop: the ratio must satisfy 0 < least <= largest, got {self.ratio}.")
        if self.num_ops < 1 or not 0 <= self.strength < STRENGTHS:
            raise InputError(
                f"rand_augment: expected at least 1 operation of a strength from 0 to {STRENGTHS - 1}, got {self.num_ops} "
                f"of {self.strength}."
            )
        endless = any(isinstance(OPS[op], DrawnOp) for op in self.ops)
        if self.limit is not None and not endless and self.limit >= self._finite_count:
            object.__setattr__(self, "limit", None)
        if not 0 <= self.erase_probability <= 1:
            raise InputError(f"erase: the probability must be from 0 to 1, got {self.erase_probability}.")

    @property
    def padding_px(self) -> int:
        """Return the most that `crop` shifts an image, in pixels."""
        assert self.padding is not None  # set in __post_init__
        return self.padding

    @property
    def count(self) -> int | None:
        """Return the number of different views: view v is view v mod count. None where it is infinite and has no limit.

        It is 1 without operations, 2 for flip, (2 * padding + 1)**2 for crop, and their product for both, or the limit: then an
        image has the first of its outcomes, each image in an order of its own.
        """
        finite = None if any(isinstance(OPS[op], DrawnOp) for op in self.ops) else self._finite_count
        return finite if self.limit is None else self.limit

    def view_of(self, epoch: int) -> int:
        """Return the view of an epoch: each in turn, the first again after the last."""
        return epoch if self.count is None else epoch % self.count

    def table(self, view: int) -> ViewTable:
        """Draw the parameters of every sample in `view`, on the CPU. They depend on `self` and the view alone."""
        if view < 0:
            raise ValueError(f"a view is numbered from 0, got {view}")
        columns: dict[str, np.ndarray] = {}
        rest = self._variants(view)
        for name, op in OPS.items():
            if name not in self.ops:
                continue
            if isinstance(op, DrawnOp):
                columns |= op.columns(self, view)
            else:
                variants = op.count(self)
                columns |= op.columns(self, rest % variants)
                rest = rest // variants
        return ViewTable({name: torch.from_numpy(column) for name, column in columns.items()})

    def apply(
        self, images: UInt8[Tensor, "batch height width 3"], rows: ViewTable
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the augmented images of a batch, RGB in 0..1, channels_last; `rows` are theirs, on the same device."""
        return self.alter(self.frame(images, rows), rows)

    def frame(
        self, images: UInt8[Tensor, "batch height width 3"], rows: ViewTable
    ) -> Float[Tensor, "batch 3 height width"]:
        """Cut what remains of each image: flip, crop, resized crop.

        Flip and crop give exactly what torchvision's `pad`, `crop` and `horizontal_flip` give image by image.
        Resized crop is bilinear and gives what torchvision's `resized_crop` gives on float images, up to rounding
        (1e-5): with or without antialias, which acts only when a crop shrinks, and here none is larger than the result.
        Unlike torchvision's on uint8 images, the result is not rounded to 256 levels.
        """
        self._check_size(images, images.shape[1:3])
        flip, box = rows.columns.get("flip"), rows.columns.get("box")
        if box is not None:
            return resized_crop(images, box, flip)
        top, left = rows.columns.get("top"), rows.columns.get("left")
        return to_unit(shift_and_flip(images, flip, top, left, self.padding_px)).permute(0, 3, 1, 2)

    def alter(
        self, images: Float[Tensor, "batch 3 height width"], rows: ViewTable
    ) -> Float[Tensor, "batch 3 height width"]:
        """Alter framed images, in 0..1 and of `image_size`: trivial or rand augment, and then erasing.

        Trivial and rand augment round to 256 levels first, and give exactly what torchvision's operations give image by
        image on uint8. Erasing paints black, as torchvision's `erase` with the value 0 does before images are normalised.
        """
        self._check_size(images, images.shape[2:4])
        ops, erased = rows.columns.get("ops"), rows.columns.get("erased")
        if ops is not None:
            levels = to_levels(images.permute(0, 2, 3, 1))
            images = to_unit(auto_augment(levels, ops, rows.columns["magnitudes"])).permute(0, 3, 1, 2)
        return images if erased is None else erase(images, erased)

    def _check_size(self, images: Tensor, size: tuple[int, ...]) -> None:
        if tuple(size) != tuple(self.image_size):
            raise ValueError(f"views of {self.image_size} images cannot be applied to {tuple(images.shape)}")

    @cached_property
    def _finite_count(self) -> int:
        ops = (OPS[op] for op in self.ops)
        return math.prod(op.count(self) for op in ops if isinstance(op, FiniteOp))

    @cached_property
    def _offsets_and_strides(self) -> tuple[Int64[np.ndarray, " samples"], Int64[np.ndarray, " samples"]]:
        count = self._finite_count
        coprime = np.array([stride for stride in range(1, count + 1) if math.gcd(stride, count) == 1])
        offsets = random_words(self.num_samples, "view offset", self.seed) % np.uint64(count)
        choices = random_words(self.num_samples, "view stride", self.seed) % np.uint64(len(coprime))
        return offsets.astype(np.int64), coprime[choices.astype(np.int64)]

    def _variants(self, view: int) -> Int64[np.ndarray, " samples"]:
        offsets, strides = self._offsets_and_strides
        variants: np.ndarray = (offsets + strides * (view % self._finite_count)) % self._finite_count
        return variants


def identity_views(num_samples: int, image_size: tuple[int, int]) -> Views:
    """Return the one view of the images as they are, for evaluation."""
    return Views((), num_samples, image_size)


@dataclass(frozen=True)
class FiniteOp:
    """An operation with `count` outcomes; `columns` turns the outcome's number of each sample into parameters."""

    count: Callable[[Views], int]
    columns: Callable[[Views, Int64[np.ndarray, " samples"]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class DrawnOp:
    """An operation with infinitely many outcomes; `columns` draws the parameters of all samples for a view."""

    columns: Callable[[Views, int], dict[str, np.ndarray]]


def _flip_columns(views: Views, variant: Int64[np.ndarray, " samples"]) -> dict[str, np.ndarray]:
    return {"flip": variant == 1}


def _crop_columns(views: Views, variant: Int64[np.ndarray, " samples"]) -> dict[str, np.ndarray]:
    padding = views.padding_px
    top, left = np.divmod(variant, 2 * padding + 1)
    return {"top": (top - padding).astype(np.int16), "left": (left - padding).astype(np.int16)}


def _resized_crop_columns(views: Views, view: int) -> dict[str, np.ndarray]:
    boxes = crop_boxes(views.num_samples, views.image_size, views.scale, views.ratio, views.seed, view)
    return {"box": boxes}


def _trivial_augment_columns(views: Views, view: int) -> dict[str, np.ndarray]:
    return trivial_ops(views.num_samples, views.seed, view)


def _rand_augment_columns(views: Views, view: int) -> dict[str, np.ndarray]:
    return random_ops(views.num_samples, views.image_size, views.num_ops, views.strength, views.seed, view)


def _erase_columns(views: Views, view: int) -> dict[str, np.ndarray]:
    boxes = erased_boxes(views.num_samples, views.image_size, views.erase_probability, views.seed, view)
    return {"erased": boxes}


OPS: dict[str, FiniteOp | DrawnOp] = {
    "flip": FiniteOp(count=lambda views: 2, columns=_flip_columns),
    "crop": FiniteOp(count=lambda views: (2 * views.padding_px + 1) ** 2, columns=_crop_columns),
    "resized_crop": DrawnOp(columns=_resized_crop_columns),
    "trivial_augment": DrawnOp(columns=_trivial_augment_columns),
    "rand_augment": DrawnOp(columns=_rand_augment_columns),
    "erase": DrawnOp(columns=_erase_columns),
}
"""Operations by name. Their order here, not that in `Views.ops`, gives the digits of a variant: flip is the first."""

EXCLUSIVE = (
    ("crop", "resized_crop", "what part of the image remains"),
    ("trivial_augment", "rand_augment", "what is done to the colours and the shape of the image"),
)
"""Pairs of operations that cannot be combined, and what both choose."""
