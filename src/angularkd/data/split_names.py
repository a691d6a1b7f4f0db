"""What splits are called in the names of folders and files: one vocabulary for every source, in upper and lower case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from angularkd.errors import InputError

SPLIT_NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val", "devel": "val",
    "development": "val", "eval": "val", "evaluation": "val",
    "test": "test", "testing": "test", "holdout": "test", "heldout": "test",
}  # fmt: skip
"""What a split may be called in the names of files and folders, and what it is called here."""

FILLERS = frozenset(
    ("set", "sets", "data", "dataset", "split", "splits", "files",
     "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos")
)  # fmt: skip
"""Words that a name may have beside that of its split, as in training_set, Test-Data or valid_images."""

TWO_WORDS = re.compile(r"(hold|held)[\W_]+out", re.IGNORECASE)
LETTERS = re.compile(r"[^\W\d_]+")
HUMP = re.compile(r"[A-Z]?[^A-Z]+|[A-Z]+(?![^A-Z])")
JOINED = re.compile(rf"({'|'.join(SPLIT_NAMES)})({'|'.join(FILLERS)})")
"""A split's name and a filler in one word, as in trainset."""


def split_words(name: str) -> tuple[list[str], list[str]]:
    """Return the words of a name that name a split, and its other words without fillers, both in lower case.

    A word ends where letters do, and in CamelCase: TrainSet_2 is `train` and `set`, but latest is one word.
    """
    name = TWO_WORDS.sub(r"\1out", name)
    words = [word.lower() for part in LETTERS.findall(name) for word in HUMP.findall(part)]
    joined = [JOINED.fullmatch(word) for word in words]
    words = [match.group(1) if match else word for word, match in zip(words, joined, strict=True)]
    naming = [word for word in words if word in SPLIT_NAMES]
    return naming, [word for word in words if word not in SPLIT_NAMES and word not in FILLERS]


def split_called(name: str) -> str | None:
    """Return the split whose name, with fillers at most, is the whole of `name`; None where there is none, or more."""
    naming, others = split_words(name)
    splits = {SPLIT_NAMES[word] for word in naming}
    return splits.pop() if len(splits) == 1 and not others else None


def split_named(path: PurePath) -> str | None:
    """Return the split that a file's name gives as a word of its own (train-00000-of-00004.parquet), else the one that the
    nearest of its folders gives (train/0000.parquet); None where no name gives one, or that name gives two."""
    for part in reversed(path.parts):
        splits = {SPLIT_NAMES[word] for word in split_words(part)[0]}
        if splits:
            return splits.pop() if len(splits) == 1 else None
    return None


def files_by_split(root: Path, paths: Iterable[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Sort files by the split that their names below `root` give, in the order of SPLITS; return those without one, too.

    Raises:
        InputError: Files of one split call it by different names, as valid-0 and dev-0 do, or a link shows a file twice.
    """
    found: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    called: dict[str, dict[str, Path]] = {split: {} for split in found}
    unnamed: list[Path] = []
    real: dict[Path, Path] = {}
    for path in paths:
        first = real.setdefault(path.resolve(), path)
        if first is not path:
            raise InputError(f"{first} and {path} are one file: remove the link, or copy the file if that is meant.")
        within = path.relative_to(root)
        split = split_named(within)
        if split is None:
            unnamed.append(path)
            continue
        found[split].append(path)
        word = next(words[0] for part in reversed(within.parts) if (words := split_words(part)[0]))
        called[split].setdefault(word, within)
    for split, by_word in called.items():
        if len(by_word) > 1:
            one, other = [within.as_posix() for within in by_word.values()][:2]
            raise InputError(f"{root}: {one} and {other} both name the {split} split; keep one, or rename one.")
    return {split: files for split, files in found.items() if files}, unnamed


def passed_over(names: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Return the note that names what lies beside the splits and is not used; none where nothing does."""
    names = list(names)
    if not names:
        return ()
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (f"passed over, since the name gives no split: {', '.join(names[:most])}{more}",)


def split_folders(where: str, names: Sequence[str], inside: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the folder of each split, in the order of SPLITS; none where the folders are classes.

    A folder is one of a split where its name says that alone (train, Training_Set), or where several names differ by
    their split only (seg_train and seg_test). One class may be called like a split (train, the vehicle): then there are no
    folders inside.

    Args:
        where: What an error calls the folder.
        names: The folders in it.
        inside: The folders in each of these.

    Raises:
        InputError: Two folders name one split, several kinds of names do, or none names the training images.
    """
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        naming, others = split_words(name)
        splits = {SPLIT_NAMES[word] for word in naming}
        if len(splits) == 1:
            groups.setdefault(tuple(others), {}).setdefault(splits.pop(), []).append(name)
    groups = {
        others: group
        for others, group in groups.items()
        if len(group) > 1 or (not others and any(inside[name] for same in group.values() for name in same))
    }
    if not groups:
        return {}
    if len(groups) > 1:
        shown = " and ".join("/, ".join(same[0] for same in group.values()) + "/" for group in groups.values())
        raise InputError(
            f"{where} holds the splits of several data sets, {shown}: put those of one into a folder alone."
        )
    group = next(iter(groups.values()))
    for split, same in group.items():
        if len(same) > 1:
            raise InputError(f"{where}: {same[0]}/ and {same[1]}/ both name the {split} split; keep one.")
    if "train" not in group:
        found = ", ".join(f"{same[0]}/" for same in group.values())
        raise InputError(f"{where}: found {found} but no train/; rename the folder of training images to train.")
    return {split: group[split][0] for split in ("train", "val", "test") if split in group}


def check_class_names(where: str, classes: Sequence[str]) -> None:
    """Check that classes are no splits. Raises InputError where every one of several is called like a split, or a fold."""
    if len(classes) > 1 and all(
        split_called(name) or split_words(name)[1] in (["fold"], ["folds"]) for name in classes
    ):
        raise InputError(
            f"{where}: the classes would be {', '.join(classes[:4])}, which look like splits; name the folders train, val "
            "and test, with a folder for each class inside."
        )


def check_class_folders(where: str, inside: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Check that no split lies inside the classes.

    Args:
        where: What an error calls the folder of the class folders.
        inside: The folders in each class folder, by class.

    Returns:
        A note where all of the classes hold the same several folders, such as years, which then belong to their class.

    Raises:
        InputError: A class folder holds two splits, or each holds one, or they hold the same folders and one is called
            like a split.
    """
    splits = {
        name: {split for folder in folders if (split := split_called(folder))} for name, folders in inside.items()
    }
    around = next((name for name, found in splits.items() if len(found) > 1), None)
    if around is None and len(inside) > 1 and all(splits.values()):
        around = next(iter(inside))
    if around is not None:
        names = [folder for folder in inside[around] if split_called(folder)]
        raise InputError(
            f"{where}: the class folder {around!r} holds {'/, '.join(names)}/: put the splits outside and the classes inside, "
            f"as in {names[0]}/{around}/."
        )
    shared = list(next(iter(inside.values()), ()))
    if len(inside) < 2 or len(shared) < 2 or any(list(folders) != shared for folders in inside.values()):
        return ()
    listed = f"{', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}"
    named = next((name for name in inside if split_words(name)[0]), None)
    if named is not None:
        raise InputError(
            f"{where}: {named!r} would be a class, but looks like a split, and all of these folders hold the same ones "
            f"({listed}); name the outer folders train, val and test."
        )
    outer = f"{', '.join(list(inside)[:3])}{', ...' if len(inside) > 3 else ''}"
    return (f"the classes are {outer}; the folders {listed} inside of each are not told apart",)
