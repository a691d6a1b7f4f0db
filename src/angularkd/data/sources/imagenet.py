"""ImageNet and its children: imagenet, tiny-imagenet and cinic10, in the layouts that they are distributed in."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from angularkd.data.sources.folders import FileStore, open_folder, read_splits
from angularkd.data.sources.walking import subfolders, walk
from angularkd.data.splits import Source, Split, whole
from angularkd.errors import InputError

WORDNET_ID = re.compile(r"n\d{8}")
VAL_NUMBER = re.compile(r"_(\d{8})\.[^.]+$")
DEVKIT = "ILSVRC2012_devkit_t12"
CINIC10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def open_imagenet(folder: Path) -> Source:
    """Open class folders train/n01440764/ and val/n01440764/, or all images flat in val/ with the development kit beside it.

    The kit gives the classes of val/ILSVRC2012_val_00000001.JPEG and so on: as the archive ILSVRC2012_devkit_t12.tar.gz,
    unpacked, or as the meta.bin that torchvision makes of it. A test/ folder is passed over, it has no labels.
    Classes are the sorted WordNet ids (for all 1,000 that is the order of every pretrained model), each with its first
    name: "n01440764 tench".

    Raises:
        InputError: Folders, ids or labels are others.
    """
    train, val = _expect_folders("imagenet", folder, ("train", "val"))
    wnids = _wordnet_folders(train)
    flat = not subfolders(val)
    splits, notes = read_splits(folder, {"train": train} if flat else {"train": train, "val": val}, wnids)
    if flat:
        splits["val"] = _read_flat_val(folder, wnids)
    return Source("imagenet", _named(wnids, _wordnet_words()), splits, (*notes, *_unlabelled_test(folder)))


def open_tiny_imagenet(folder: Path) -> Source:
    """Open the official layout: wnids.txt, train/WNID/images/*.JPEG, val/images/ with val/val_annotations.txt.

    A val/ of class folders, as some scripts rearrange it, will do as well. Classes are in the order of wnids.txt, with
    their first name where words.txt is there. The test images have no labels and are passed over.

    Raises:
        InputError: Folders are others, or wnids.txt, train/ and the annotations of val/ disagree.
    """
    train, val = _expect_folders("tiny-imagenet", folder, ("train", "val"))
    wnids = _lines(folder / "wnids.txt")
    if sorted(wnids) != subfolders(train):
        odd = sorted(set(wnids) ^ set(subfolders(train)))
        raise InputError(
            f"{folder}: wnids.txt lists {len(wnids)} classes, train/ holds {len(subfolders(train))} folders"
            f"{f', and only one of them has {odd[0]}' if odd else ''}; unpack tiny-imagenet-200.zip again."
        )
    annotations = val / "val_annotations.txt"
    annotated = annotations.is_file()
    splits, notes = read_splits(folder, {"train": train} if annotated else {"train": train, "val": val}, wnids)
    if annotated:
        splits["val"] = _read_annotated(annotations, wnids)
    words = folder / "words.txt"
    rows = [line.split("\t") for line in _lines(words)] if words.is_file() else []
    names = {row[0]: row[1] for row in rows if len(row) > 1}
    return Source("tiny-imagenet", _named(wnids, names), splits, (*notes, *_unlabelled_test(folder)))


def open_cinic10(folder: Path) -> Source:
    """Open train/, valid/ and test/, each with the ten class folders of CIFAR-10; valid/ is the validation split.

    Raises:
        InputError: Folders or classes are others.
    """
    _expect_folders("cinic10", folder, ("train", "valid", "test"))
    source = open_folder(folder)
    if source.classes != CINIC10_CLASSES:
        raise InputError(
            f"cinic10:{folder}: expected the class folders {', '.join(CINIC10_CLASSES)}, found "
            f"{', '.join(source.classes[:10])}; for classes of your own write the folder alone."
        )
    return replace(source, name="cinic10")


def _expect_folders(prefix: str, folder: Path, names: Sequence[str]) -> list[Path]:
    missing = [f"{name}/" for name in names if not (folder / name).is_dir()]
    if missing:
        expected = " and ".join(", ".join(f"{name}/" for name in names).rsplit(", ", 1))
        found = ", ".join(f"{name}/" for name in subfolders(folder)) or "no folders"
        raise InputError(f"{prefix}:{folder}: expected {expected}, found {found}; name the folder that holds them.")
    return [folder / name for name in names]


def _wordnet_folders(train: Path) -> list[str]:
    names = subfolders(train)
    other = [name for name in names if not WORDNET_ID.fullmatch(name)]
    if other or len(names) < 2:
        raise InputError(
            f"{train} holds {f'the folder {other[0]!r}' if other else f'{len(names)} folders'}: expected a folder of "
            "images for each WordNet id, such as n01440764; for classes of your own write the folder alone."
        )
    return names


def _read_flat_val(folder: Path, wnids: list[str]) -> Split:
    """Read the images of val/ with the classes that the development kit gives by their number."""
    truth = _val_wnids(folder)
    index_of = {wnid: index for index, wnid in enumerate(wnids)}
    paths = walk(folder / "val").images
    labels: list[int] = []
    for path in paths:
        number = VAL_NUMBER.search(path)
        if number is None or not 1 <= int(number.group(1)) <= len(truth):
            raise InputError(
                f"cannot tell the class of {path}: expected a name such as ILSVRC2012_val_00000001.JPEG, numbered up to "
                f"{len(truth)}; put the images of val/ into class folders or restore their names."
            )
        wnid = truth[int(number.group(1)) - 1]
        if wnid not in index_of:
            raise InputError(f"{path} is of class {wnid}, which train/ lacks: add it there, or remove the image.")
        labels.append(index_of[wnid])
    return whole(FileStore(paths), labels)


def _val_wnids(folder: Path) -> list[str]:
    """Return the WordNet ids of the validation images in the order of their numbers, from whichever form of the kit is there."""
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    archive = folder / f"{DEVKIT}.tar.gz"
    kit = folder / DEVKIT / "data"
    try:
        if (folder / "meta.bin").is_file():
            return list(load_meta_file(folder)[1])
        if kit.is_dir():
            return _read_kit(kit)
        if archive.is_file():
            with tempfile.TemporaryDirectory() as scratch:  # torchvision leaves its meta.bin there, not among the data
                parse_devkit_archive(scratch, str(archive.resolve()))
                return list(load_meta_file(scratch)[1])
    except Exception as error:  # a damaged pickle, archive, matrix or list of numbers raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{folder}: cannot read the development kit ({reason}); get {archive.name} again.") from error
    raise InputError(
        f"{folder}: val/ holds no class folders and there is no {archive.name} to tell the classes of its images: put "
        "that archive beside val/, or the images into class folders."
    )


def _read_kit(data: Path) -> list[str]:
    """Read an unpacked kit as `torchvision.datasets.imagenet.parse_devkit_archive` reads the archive, for which it asks."""
    from scipy.io import loadmat

    synsets = loadmat(data / "meta.mat", squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    return [wnids[int(line)] for line in _lines(data / "ILSVRC2012_validation_ground_truth.txt")]


def _read_annotated(annotations: Path, wnids: list[str]) -> Split:
    index_of = {wnid: index for index, wnid in enumerate(wnids)}
    images = annotations.parent / "images"
    present = set(walk(images).images)
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(_lines(annotations), start=1):
        name, wnid = [*line.split("\t"), ""][:2]
        path = str(images / name)
        if wnid not in index_of or path not in present:
            what = f"the class {wnid!r}, which wnids.txt lacks" if path in present else f"{name}, which images/ lacks"
            raise InputError(f"{annotations}, line {number} names {what}; unpack tiny-imagenet-200.zip again.")
        paths.append(path)
        labels.append(index_of[wnid])
    if len(paths) != len(present):
        raise InputError(
            f"{annotations} has {len(paths)} lines for the {len(present)} images in images/; unpack tiny-imagenet-200.zip "
            "again."
        )
    return whole(FileStore(paths), labels)


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"cannot read {file}: {reason}.") from error


def _named(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
    """Return each id with the first of its names, as in "n01443537 goldfish"; the id alone where there is none."""
    return tuple(f"{wnid} {words.get(wnid, '').split(',')[0]}".strip() for wnid in wnids)


def _wordnet_words() -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))


def _unlabelled_test(folder: Path) -> tuple[str, ...]:
    return ("test/ passed over: its labels were never published",) if (folder / "test").is_dir() else ()
