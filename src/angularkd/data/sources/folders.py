"""A folder of class folders, with train/ and val/ or test/ inside, or none of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from angularkd.data.decode import EXTENSIONS
from angularkd.data.reading import read_image_file
from angularkd.data.sources.walking import Found, Walk, each_file_once, loose_images, some_paths, subfolders, walk
from angularkd.data.split_names import check_class_folders, check_class_names, passed_over, split_folders, split_words
from angularkd.data.splits import Source, Split, whole
from angularkd.data.stores import EncodedStore
from angularkd.errors import InputError

LISTED_ENDINGS = 3
"""Endings of other files at most that a message lists."""


class FileStore(EncodedStore):
    """A store of one image file a row. Paths are stored as text: a million of them are small, and quickly sent to a process."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> Sequence[str | Path]:
        """Return the path of every row."""
        return self.paths

    def name(self, row: int) -> str:
        """Return the path of an image."""
        return self.paths[row]

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return the bytes of an image, and its path. Raises InputError when the file cannot be read."""
        return read_image_file(self.paths[row], self.name(row)), self.name(row)


def open_folder(folder: Path) -> Source:
    """Open the class folders in `folder`, or in its train/, val/ and test/. Classes are the sorted folder names of train/.

    What the folders of splits may be called, `split_names` says. Files are found at any depth below a class folder, by
    extension; hidden files and folders are passed over.

    Raises:
        InputError: There are fewer than two classes, they look like splits, a class folder is empty, or train/ lacks a class.
    """
    names = subfolders(folder)
    inside = {name: subfolders(folder / name) for name in names if split_words(name)[0]}
    splits = {split: folder / name for split, name in split_folders(str(folder), names, inside).items()}
    classes = inside[splits["train"].name] if splits else names
    if len(classes) < 2:
        raise InputError(
            f"{splits.get('train', folder)} holds {_counted(len(classes), 'class folder')}: expected one folder "
            "of images for each of two or more classes, or train/ and val/ or test/ with such folders inside."
        )
    check_class_names(str(splits.get("train", folder)), classes)
    used = {path.name for path in splits.values()}
    beside = passed_over(f"{name}/" for name in names if name not in used) if splits else ()
    found, notes = read_splits(folder, splits or {"train": folder}, classes)
    return Source(printable(folder.resolve().name), tuple(map(printable, classes)), found, (*beside, *notes))


def read_splits(
    root: Path, folders: Mapping[str, Path], classes: Sequence[str]
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Read splits of class folders.

    Args:
        root: The folder of the data set.
        folders: The folder of the class folders of each split.
        classes: Names by class index.

    Returns:
        The images of each split, sorted by class and path, and notes on what was passed over.

    Raises:
        InputError: A class folder is empty, unknown, cannot be read or holds splits, or one file lies in two splits.
    """
    notes: list[str] = []
    images: list[Found] = []
    linked = False
    for split, folder in folders.items():
        names = _class_folders(folder, classes)
        walks = {name: walk(folder / name) for name in names}
        notes += check_class_folders(str(folder), {name: found.inside for name, found in walks.items()})
        for name, found in walks.items():
            if not found.images:
                endings = sorted(found.endings - {""})[:LISTED_ENDINGS]
                held = f"files of {' '.join(endings)} and no images" if endings else "no images"
                convert = "convert these, " if endings else ""
                raise InputError(
                    f"the class folder {folder / name} holds {held} ({' '.join(EXTENSIONS)}): {convert}add some or remove it."
                )
            label = classes.index(name)
            images += [Found(path, split, label) for path in found.images]
        linked = linked or folder.is_symlink() or any(found.linked for found in walks.values())
        notes += _passed_over(split, folder, list(walks.values()))
    if linked:
        images, again = each_file_once(root, images)
        if again:
            notes.append(f"passed over, since links show the same files a second time: {some_paths(again)}")
    return {split: _split([image for image in images if image.split == split]) for split in folders}, tuple(notes)


def _class_folders(folder: Path, classes: Sequence[str]) -> list[str]:
    """Return the class folders of a split. Raises InputError when there is none, or one that train/ lacks."""
    names = subfolders(folder)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"{folder} has the class folder {unknown[0]!r}, which train/ lacks: add it there, or move {folder.name}/ "
            "elsewhere if its folders are not classes."
        )
    if not names:
        raise InputError(f"{folder} holds no class folders: put its images into one folder a class.")
    return names


def _passed_over(split: str, folder: Path, walks: Sequence[Walk]) -> list[str]:
    """Return what was passed over in the class folders of a split, and beside them."""
    notes = []
    others = sum(found.others for found in walks)
    special = [path for found in walks for path in found.special]
    back = [path for found in walks for path in found.back]
    loose = loose_images(folder)
    if others:
        notes.append(f"{split}: {_counted(others, 'file')} passed over, not images by extension")
    if special:
        notes.append(f"{split}: passed over, since they are no files but pipes or devices: {some_paths(special)}")
    if back:
        notes.append(f"{split}: links passed over, which lead to folders that are read already: {some_paths(back)}")
    if loose:
        notes.append(
            f"{split}: {_counted(loose, 'image')} passed over that lie beside the class folders, in none of them"
        )
    return notes


def _split(images: Sequence[Found]) -> Split:
    return whole(FileStore(image.path for image in images), [image.label for image in images])


def printable(name: str) -> str:
    """Return a name of a file system as text that any file can hold: bytes of no UTF-8 as \\xHH."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
