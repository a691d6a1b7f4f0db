"""Sources: the table of everything that DATA may name, and what opens it.

A new source is one file with a function that returns a `Source`, and one row in SOURCES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from angularkd.data.sources.folders import open_folder
from angularkd.data.sources.hub import open_hub
from angularkd.data.sources.imagenet import open_cinic10, open_imagenet, open_tiny_imagenet
from angularkd.data.sources.parquet import open_parquet
from angularkd.data.sources.shards import open_shards
from angularkd.data.sources.small import open_cifar, open_digits
from angularkd.data.splits import Source
from angularkd.errors import InputError

__all__ = ["SOURCES", "SourceRow"]


@dataclass(frozen=True)
class SourceRow:
    """A kind of data set.

    Attributes:
        written: How DATA names it, as in "cifar10:DIR".
        summary: What it is, in a line.
        open: Opens it, given what stands behind the colon. Raises InputError where that cannot be used.
    """

    written: str
    summary: str
    open: Callable[[str], Source]


def _folder(prefix: str, argument: str, must_exist: bool = True) -> Path:
    if not argument:
        raise InputError(f"{prefix} needs a folder: write {prefix}:DIR.")
    folder = Path(argument).expanduser()
    if folder.is_file() or (must_exist and not folder.is_dir()):
        raise InputError(f"{prefix}:{argument}: {'is a file, not a folder' if folder.is_file() else 'no such folder'}.")
    return folder


def _in_folder(prefix: str, open_: Callable[[Path], Source], must_exist: bool = True) -> Callable[[str], Source]:
    return lambda argument: open_(_folder(prefix, argument, must_exist))


def _cifar(name: str) -> Callable[[str], Source]:
    return _in_folder(name, lambda folder: open_cifar(name, folder), must_exist=False)


SOURCES: dict[str, SourceRow] = {
    "": SourceRow(
        "FOLDER",
        "class folders, with train/ and val/ or test/ around them or not",
        lambda argument: open_folder(Path(argument).expanduser()),
    ),
    "digits": SourceRow("digits", "1,797 handwritten digits inside scikit-learn, offline", open_digits),
    "cifar10": SourceRow(
        "cifar10:DIR", "CIFAR-10's python batches, downloaded when they are not there", _cifar("cifar10")
    ),
    "cifar100": SourceRow(
        "cifar100:DIR", "CIFAR-100's python batches, downloaded when they are not there", _cifar("cifar100")
    ),
    "cinic10": SourceRow(
        "cinic10:DIR",
        "CINIC-10: the class folders of train/, valid/ and test/",
        _in_folder("cinic10", open_cinic10),
    ),
    "tiny-imagenet": SourceRow(
        "tiny-imagenet:DIR",
        "Tiny ImageNet as it is distributed: wnids.txt, train/, val/ with its annotations",
        _in_folder("tiny-imagenet", open_tiny_imagenet),
    ),
    "imagenet": SourceRow(
        "imagenet:DIR",
        "ImageNet: train/ and val/, class folders or with the development kit beside a flat val/",
        _in_folder("imagenet", open_imagenet),
    ),
    "parquet": SourceRow(
        "parquet:DIR",
        "Hugging Face parquet files with the columns image {bytes, path} and label",
        _in_folder("parquet", open_parquet),
    ),
    "hf": SourceRow(
        "hf:NAME",
        "a data set of the Hugging Face hub, or a folder that its library reads; pip install 'angularkd[hf]'",
        open_hub,
    ),
    "shards": SourceRow(
        "shards:PATTERN",
        "tar shards in the WebDataset layout: a folder of them, or such as DIR/train-{000..009}.tar",
        open_shards,
    ),
}
"""Every kind of data set, by what stands before the colon of DATA; a folder of class folders has nothing there."""
