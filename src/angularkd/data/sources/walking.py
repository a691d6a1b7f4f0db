"""One walk of the folders of a data set: regular files alone, each once, whatever links lead to them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from angularkd.data.decode import EXTENSIONS
from angularkd.errors import InputError


class Found(NamedTuple):
    """An image that a walk found.

    Attributes:
        path: Its path, as it was found.
        split, label: Where it belongs: the name of its split, and its class index.
    """

    path: str
    split: str
    label: int


@dataclass
class Walk:
    """What lies below a folder, without what is hidden.

    Attributes:
        images: Paths of files with an image's extension, sorted by folders and name.
        others: The number of other files.
        special: Paths with an image's extension of what is no file: pipes, devices, sockets.
        back: Links to folders that lie around them or were walked already.
        linked: Whether anything was found through a link.
        inside: The folders in the folder itself.
        endings: Those of the other files.
    """

    images: list[str]
    others: int
    special: list[str]
    back: list[str]
    linked: bool
    inside: list[str]
    endings: set[str] = field(default_factory=set)


def walk(folder: Path) -> Walk:
    """Walk a folder at any depth, following links to folders but none of them twice.

    Raises:
        InputError: A folder cannot be read.
    """
    found = Walk([], 0, [], [], os.path.islink(folder), [])
    around = {_identity(parent) for path in (folder.absolute(), folder.resolve()) for parent in path.parents}
    walked: set[tuple[int, int] | None] = set()
    waiting = deque([(str(folder), found.linked)])
    while waiting:
        parent, is_link = waiting.popleft()
        identity = _identity(parent)
        if identity in walked or (is_link and identity in around):
            found.back.append(parent)
            continue
        walked.add(identity)
        found.linked |= is_link
        for entry in entries(parent):
            if entry.name.startswith("."):
                continue
            link = entry.is_symlink()
            if entry.is_dir():  # links wait, so that a folder is found at its own place first
                (waiting.append if link else waiting.appendleft)((entry.path, link))
                if parent == str(folder):
                    found.inside.append(entry.name)
            elif not entry.name.lower().endswith(EXTENSIONS):
                found.others += 1
                found.endings.add(os.path.splitext(entry.name)[1].lower())
            elif not entry.is_file() and os.path.exists(entry.path):
                found.special.append(entry.path)
            else:  # a broken link too, of which whoever reads it complains
                found.images.append(entry.path)
                found.linked |= link
    found.inside.sort()
    found.images.sort(key=lambda path: path.split(os.sep))
    return found


def image_paths(folder: Path) -> list[str]:
    """Return the images below a folder, sorted. Raises InputError when a folder cannot be read."""
    return walk(folder).images


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds. Raises InputError when it cannot be read."""
    try:
        with os.scandir(folder) as scanned:
            return list(scanned)
    except OSError as error:
        raise InputError(
            f"cannot read the folder {folder}: {error.strerror}; give access to it, or remove it."
        ) from error


def subfolders(folder: str | Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without the hidden ones."""
    hidden = (".", "__")  # .git, .ipynb_checkpoints, __MACOSX, __pycache__
    return sorted(entry.name for entry in entries(folder) if entry.is_dir() and not entry.name.startswith(hidden))


def loose_images(folder: Path) -> int:
    """Return how many images lie in a folder itself, beside its folders."""
    names = (entry.name.lower() for entry in entries(folder) if not entry.is_dir())
    return sum(name.endswith(EXTENSIONS) and not name.startswith(".") for name in names)


def each_file_once(root: Path, images: Sequence[Found]) -> tuple[list[Found], list[str]]:
    """Leave out images that links show a second time.

    Of several paths to one file, the one without a link on the way below `root` stays, else the first.

    Args:
        root: The folder of the data set.
        images: All of its images.

    Returns:
        The images, each file once, in their order, and the paths that are left out.

    Raises:
        InputError: A file lies in two splits, links alone lead to it from two classes, or a class is left without any.
    """
    by_file: dict[tuple[int, int] | str, list[Found]] = {}
    for image in images:
        by_file.setdefault(_identity(image.path) or image.path, []).append(image)
    real_root = os.path.realpath(root)
    left_out: set[Found] = set()
    for same in by_file.values():
        if len(same) == 1:
            continue
        real = [image for image in same if _is_own_place(image.path, root, real_root)]
        two = _differing(same, "split") or (None if real else _differing(same, "label"))
        if two:
            raise InputError(
                f"{two[0].path} and {two[1].path} are one file, in two {'splits' if two[0].split != two[1].split else 'classes'}: "
                "remove the link, or copy the file if that is meant."
            )
        left_out.update(set(same) - set(real or same[:1]))
    once = [image for image in images if image not in left_out]
    classes = {(image.split, image.label) for image in once}
    empty = next((image for image in images if (image.split, image.label) not in classes), None)
    if empty is not None:
        raise InputError(
            f"the class folder of {empty.path} holds nothing but links to the images of other classes: remove one of them."
        )
    return once, [image.path for image in images if image in left_out]


def _differing(images: Sequence[Found], attribute: str) -> tuple[Found, Found] | None:
    """Return two images that differ in an attribute, if there are any."""
    other = next((image for image in images if getattr(image, attribute) != getattr(images[0], attribute)), None)
    return (images[0], other) if other else None


def _is_own_place(path: str, root: Path, real_root: str) -> bool:
    return os.path.realpath(path) == os.path.normpath(os.path.join(real_root, os.path.relpath(path, root)))


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what a path leads to, the same for all paths to it; None where it leads nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def some_paths(paths: Iterable[str], most: int = 3) -> str:
    """Return the first of some paths, and how many more there are."""
    paths = list(paths)
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")
