"""Opening: every DATA spec becomes an indexed data set of (image, label), its splits settled and each decision noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from angularkd.data.decoded import DecodedSplits
from angularkd.data.inspection import inspect_images
from angularkd.data.sources import SOURCES
from angularkd.data.splits import Source, Split, readable_size, settle_splits
from angularkd.data.stores import Store
from angularkd.errors import InputError, nearest

SMALL_SIZE_PX = 64
"""Largest side up to which images are shifted, not cropped and enlarged."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set, ready to be read.

    Attributes:
        name: What reports call it.
        classes: Names by class index.
        train, val, test: Indexed splits: `split[i]` is (uint8 RGB image [height, width, 3], class index), beside `.labels`.
        notes: Plain sentences on what was decided, for the plan and the report.
        augment: The operations of `views.OPS` that suit such images.
        left_out: What is wrong with each image that was left out (`screening.without_bad_images`).
        mirrorable: False where the mirror image of a sample is another class or none.
        render: Builds the store of all splits for another (height, width), where images are drawn and not stored.
        decoded: What has been decoded of the splits. Everything that is derived from this data set shares it.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    notes: tuple[str, ...]
    augment: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    mirrorable: bool = True
    render: Callable[[tuple[int, int]], Store] | None = None
    decoded: DecodedSplits = field(default_factory=DecodedSplits)

    @property
    def splits(self) -> Mapping[str, Split]:
        """Return train, val and test by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def at_size(self, image_size: tuple[int, int]) -> DataSet:
        """Return the data set as it is opened for images of (height, width) pixels, without opening it again.

        The augmentation is suggested anew; digits are rendered anew from their originals. All other images are brought
        to the size by who decodes them.
        """
        augment = suggested_augmentation(image_size, self.mirrorable)
        if self.render is None or self.train.size(0) == image_size:
            return replace(self, augment=augment)
        store = self.render(image_size)
        train, val, test = (replace(split, store=store) for split in self.splits.values())
        return replace(self, train=train, val=val, test=test, augment=augment)


def open_data(
    spec: str, *, val_fraction: float = 0.1, split_seed: int = 0, image_size: tuple[int, int] | None = None
) -> DataSet:
    """Open what `spec` names: something of the form of a row of SOURCES.

    Args:
        spec: DATA, as on the command line.
        val_fraction: Share of the training images (of each class) that become validation images where the source has
            none; of test images too where it has neither.
        split_seed: What the drawn splits depend on, besides the labels in their order.
        image_size: (height, width) in pixels that the images will be resized to when they are decoded, as in
            `DataSet.at_size`; None for their own.

    Returns:
        The data set, of which nothing is decoded yet but a few images, to say what that loses of them.

    Raises:
        InputError: The data cannot be used; one line with the remedy.
    """
    if image_size is not None and min(image_size) < 1:
        raise InputError(f"`image_size` must be positive, got {image_size[0]} x {image_size[1]}.")
    source = _open_source(spec)
    splits, split_notes = settle_splits(source, val_fraction, split_seed)
    image_notes = inspect_images(source.name, splits)
    dataset = DataSet(
        source.name,
        source.classes,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        notes=source.notes + split_notes + image_notes,
        augment=suggested_augmentation(image_size or readable_size(splits["train"]), source.mirrorable),
        mirrorable=source.mirrorable,
        render=source.render,
    )
    return dataset if image_size is None else dataset.at_size(image_size)


def suggested_augmentation(image_size: tuple[int, int], mirrorable: bool) -> tuple[str, ...]:
    """Return the operations that suit images of (height, width) pixels, which may be mirrored or not."""
    if not mirrorable:
        return ("crop",)
    return ("crop" if min(image_size) <= SMALL_SIZE_PX else "resized_crop", "flip")


def _open_source(spec: str) -> Source:
    prefix, colon, argument = spec.partition(":")
    if prefix and prefix in SOURCES:
        return SOURCES[prefix].open(argument)
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        return SOURCES[""].open(spec)
    named = [row.written for name, row in SOURCES.items() if name]
    expected = f"expected a folder, {', '.join(named[:-1])} or {named[-1]}"
    if spec and folder.exists():
        raise InputError(f"{spec!r} is a file: {expected.replace('a folder', 'a folder of class folders', 1)}.")
    if colon:
        raise InputError(f"unknown data {spec!r}: {expected}.{nearest(prefix, SOURCES)}")
    raise InputError(f"no folder {spec!r}: {expected}.{nearest(spec, SOURCES)}")
