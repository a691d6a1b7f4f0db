"""Every DATA spec -> an indexed data set of (image, label), with its splits settled and each decision noted.

A new source is one function that returns a `Source` and one row in OPENERS.
"""

from __future__ import annotations

import http.client
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from angularkd.data.sources.folders import open_folder
from angularkd.data.sources.hub import open_hub
from angularkd.data.sources.imagenet import open_cinic10, open_imagenet, open_tiny_imagenet
from angularkd.data.sources.parquet import open_parquet
from angularkd.data.sources.shards import open_shards
from angularkd.data.splits import ArrayStore, Source, Split, draw_stratified, readable_size, settle_splits, whole
from angularkd.errors import InputError, nearest

SMALL_SIZE_PX = 64
DIGITS_SIZE_PX = 16
PROBE_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set, ready to be read.

    classes: names by class index.
    train, val, test: indexed splits, `split[i]` -> (uint8 RGB image [height, width, 3], class index), with `.labels`.
    notes:   plain sentences on what was decided, for the plan and the report.
    augment: the operations of `views.OPS` that suit such images.
    left_out: what is wrong with each image that was left out (`screening.without_bad_images`).
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    notes: tuple[str, ...]
    augment: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def open_data(
    spec: str, *, val_fraction: float = 0.1, split_seed: int = 0, image_size: tuple[int, int] | None = None
) -> DataSet:
    """Open what `spec` names: one of DESCRIPTIONS.

    val_fraction: share of the training images (of each class) that become validation images where the source has none;
                  of test images too where it has neither.
    split_seed:   all that the drawn splits depend on, besides the labels in their order.
    image_size:   (height, width) in pixels that the images will be resized to when they are loaded. Here it is the size
                  of `digits`, and for the rest it decides the augmentation that is suggested.

    Raises InputError, one line with the remedy, when the data cannot be used.
    """
    source = _open_source(spec, image_size)
    splits, split_notes = settle_splits(source, val_fraction, split_seed)
    height, width = image_size or readable_size(splits["train"])
    if not source.mirrorable:
        augment: tuple[str, ...] = ("crop",)
    elif min(height, width) <= SMALL_SIZE_PX:
        augment = ("crop", "flip")
    else:
        augment = ("resized_crop", "flip")
    notes = source.notes + split_notes
    return DataSet(source.name, source.classes, splits["train"], splits["val"], splits["test"], notes, augment)


def _open_source(spec: str, image_size: tuple[int, int] | None) -> Source:
    if image_size is not None and min(image_size) < 1:
        raise InputError(f"image_size must be positive, got {image_size[0]} x {image_size[1]}.")
    prefix, colon, argument = spec.partition(":")
    if prefix in OPENERS:
        return OPENERS[prefix](argument, image_size)
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        return open_folder(folder)
    if spec and folder.exists():
        raise InputError(f"{spec!r} is a file: expected a folder of class folders, {_known_specs()}.")
    if colon:
        raise InputError(f"unknown data {spec!r}: expected a folder, {_known_specs()}.{nearest(prefix, OPENERS)}")
    raise InputError(f"no folder {spec!r}: expected a folder, {_known_specs()}.{nearest(spec, OPENERS)}")


def _known_specs() -> str:
    names = [name for name in DESCRIPTIONS if name != "FOLDER"]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _open_digits(argument: str, image_size: tuple[int, int] | None) -> Source:
    """The 1,797 handwritten digits inside scikit-learn: 8 x 8 pixels of 16 grey levels, enlarged bilinearly."""
    if argument:
        raise InputError(f"digits comes with scikit-learn and takes no folder: write digits, not digits:{argument}.")
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images / 16.0 * 255.0)[:, None]
    size = image_size or (DIGITS_SIZE_PX, DIGITS_SIZE_PX)
    grey = torch.nn.functional.interpolate(grey, size=size, mode="bilinear", antialias=True, align_corners=False)
    pixels = grey.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
    images = whole(ArrayStore("digits", pixels), digits.target)
    test, train = draw_stratified(images.labels, 0.2, 1, "digits test")
    return Source(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        splits={"train": images.select(train), "test": images.select(test)},
        notes=(f"test: {len(test)} of {len(images)} images, stratified, the same whatever the seed",),
        mirrorable=False,
    )


def _open_cifar(name: str, argument: str) -> Source:
    """CIFAR's python batches through torchvision, which checks their MD5 sums; downloaded when they are not there."""
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = _folder(name, argument, must_exist=False)
    if folder.name == kind.base_folder:
        folder = folder.parent
    with warnings.catch_warnings():
        # Pickled by NumPy 1 with integers for booleans, about which NumPy 2.4.0 to 2.4.4 warn (pytorch/vision#9340).
        warnings.filterwarnings("ignore", message=r"dtype\(\): align", category=np.exceptions.VisibleDeprecationWarning)
        try:
            train = kind(folder, train=True)
        except RuntimeError:  # how torchvision says: not found or corrupted
            _download_cifar(name, kind, folder)
            train = kind(folder, train=True)
        test = kind(folder, train=False)
    splits = {
        split: whole(ArrayStore(f"{name} {split}", part.data), part.targets)
        for split, part in (("train", train), ("test", test))
    }
    return Source(name, tuple(train.classes), splits)


def _download_cifar(name: str, kind: Any, folder: Path) -> None:
    try:
        with urllib.request.urlopen(kind.url, timeout=PROBE_TIMEOUT_SECONDS):
            pass  # torchvision's own download waits without limit where packets are dropped
        kind(folder, train=True, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(
            f"{name}: no intact {kind.base_folder}/ in {folder}, and {kind.url} cannot be fetched ({reason}): get "
            f"{kind.filename} elsewhere and put it, or its unpacked {kind.base_folder}/, into {folder}."
        ) from error


def _folder(prefix: str, argument: str, must_exist: bool = True) -> Path:
    if not argument:
        raise InputError(f"{prefix} needs a folder: write {prefix}:DIR.")
    folder = Path(argument).expanduser()
    if folder.is_file() or (must_exist and not folder.is_dir()):
        raise InputError(f"{prefix}:{argument}: {'is a file, not a folder' if folder.is_file() else 'no such folder'}.")
    return folder


OPENERS: dict[str, Callable[[str, tuple[int, int] | None], Source]] = {
    "digits": _open_digits,
    "cifar10": lambda argument, _: _open_cifar("cifar10", argument),
    "cifar100": lambda argument, _: _open_cifar("cifar100", argument),
    "cinic10": lambda argument, _: open_cinic10(_folder("cinic10", argument)),
    "tiny-imagenet": lambda argument, _: open_tiny_imagenet(_folder("tiny-imagenet", argument)),
    "imagenet": lambda argument, _: open_imagenet(_folder("imagenet", argument)),
    "parquet": lambda argument, _: open_parquet(_folder("parquet", argument)),
    "hf": lambda argument, _: open_hub(argument),
    "shards": lambda argument, _: open_shards(argument),
}
"""What stands before the colon of a DATA spec; without one of these, DATA is a folder."""

DESCRIPTIONS: dict[str, str] = {
    "FOLDER": "class folders, with train/ and val/ or test/ around them or not",
    "digits": "1,797 handwritten digits inside scikit-learn, offline",
    "cifar10:DIR": "CIFAR-10's python batches, downloaded when they are not there",
    "cifar100:DIR": "CIFAR-100's python batches, downloaded when they are not there",
    "cinic10:DIR": "CINIC-10: the class folders of train/, valid/ and test/",
    "tiny-imagenet:DIR": "Tiny ImageNet as it is distributed: wnids.txt, train/, val/ with its annotations",
    "imagenet:DIR": "ImageNet: train/ and val/, class folders or with the development kit beside a flat val/",
    "parquet:DIR": "Hugging Face parquet files with the columns image {bytes, path} and label",
    "hf:NAME": "a data set of the Hugging Face hub, or a folder that its library reads; pip install 'angularkd[hf]'",
    "shards:PATTERN": "tar shards in the WebDataset layout: a folder of them, or such as DIR/train-{000..009}.tar",
}
"""Every form of DATA, and what it is."""
