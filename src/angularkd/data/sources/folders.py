"""A folder of class folders, with train/ and val/ or test/ inside, or none of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from angularkd.data.decode import EXTENSIONS
from angularkd.data.splits import SPLIT_NAMES, Source, Split, whole
from angularkd.data.stores import EncodedStore
from angularkd.errors import InputError


class FileStore(EncodedStore):
    """A store of one image file a row. Paths are stored as text: a million of them are small, and quickly sent to a process."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """Return the path of an image."""
        return self.paths[row]

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return the bytes of an image, and its path. Raises InputError when the file cannot be read."""
        try:
            return Path(self.paths[row]).read_bytes(), self.name(row)
        except OSError as error:
            raise InputError(f"cannot read {self.name(row)}: {error.strerror}.") from error


def open_folder(folder: Path) -> Source:
    """Open the class folders in `folder`, or in its train/, val/ and test/. Classes are the sorted folder names of train/.

    Files are found at any depth below a class folder, by extension; hidden files and folders are passed over.

    Raises:
        InputError: There are fewer than two classes, a class folder is empty, or train/ lacks a class.
    """
    split_folders = _split_folders(folder)
    classes = subfolders(split_folders.get("train", folder))
    if len(classes) < 2:
        raise InputError(
            f"{split_folders.get('train', folder)} holds {_counted(len(classes), 'class folder')}: expected one folder "
            "of images for each of two or more classes, or train/ and val/ or test/ with such folders inside."
        )
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for split, path in (split_folders or {"train": folder}).items():
        splits[split], passed_over = read_classes(path, classes)
        if passed_over:
            notes.append(f"{split}: {_counted(passed_over, 'file')} passed over, not images by extension")
    return Source(folder.resolve().name, tuple(classes), splits, tuple(notes))


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split, train first; none when `folder` holds class folders.

    One class may be named like a split ("train", the vehicle; "test", the group): it has no folders inside.
    """
    by_split: dict[str, Path] = {}
    for name in subfolders(folder):
        split = SPLIT_NAMES.get(name.lower())
        if split in by_split:
            raise InputError(f"{folder}: {by_split[split].name}/ and {name}/ both name the {split} split; keep one.")
        if split is not None:
            by_split[split] = folder / name
    if len(by_split) <= 1 and not any(subfolders(path) for path in by_split.values()):
        return {}
    if "train" not in by_split:
        found = ", ".join(f"{path.name}/" for path in by_split.values())
        raise InputError(f"{folder}: found {found} but no train/; rename the folder of training images to train.")
    return {split: by_split[split] for split in ("train", "val", "test") if split in by_split}


def read_classes(folder: Path, classes: Sequence[str]) -> tuple[Split, int]:
    """Read one split.

    Args:
        folder: The folder of its class folders.
        classes: Names by class index.

    Returns:
        The images, sorted by class and path, and the number of other files.

    Raises:
        InputError: A class folder is empty or unknown, or there is none.
    """
    names = subfolders(folder)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"{folder} has the class folder {unknown[0]!r}, which train/ lacks: add it there, or move {folder.name}/ "
            "elsewhere if its folders are not classes."
        )
    if not names:
        raise InputError(f"{folder} holds no class folders: put its images into one folder a class.")
    index_of = {name: index for index, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    passed_over = 0
    for name in names:
        images, others = image_files(folder / name)
        if not images:
            raise InputError(
                f"the class folder {folder / name} holds no images ({' '.join(EXTENSIONS)}): add some or remove it."
            )
        paths += images
        labels += [index_of[name]] * len(images)
        passed_over += others
    return whole(FileStore(paths), labels), passed_over


def image_files(folder: Path) -> tuple[list[str], int]:
    """Find the images at any depth, sorted by folders and name, and count the other files."""
    images: list[str] = []
    others = 0
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                images.append(os.path.join(parent, name))
            elif not name.startswith("."):
                others += 1
    return sorted(images, key=lambda path: path.split(os.sep)), others


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without the hidden ones."""
    hidden = (".", "__")  # .git, .ipynb_checkpoints, __MACOSX, __pycache__
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(hidden))


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
