"""Train, validation and test: which images belong to which, decided by one rule for every source.

The test split is not used before the end: where a source has only `train` and `val` (ImageNet and its children),
`val` is the test split and validation images are drawn from `train`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from angularkd.data.split_names import check_class_names
from angularkd.data.stores import Store
from angularkd.data.views.seeds import permutation
from angularkd.errors import InputError

SPLITS = ("train", "val", "test")
"""The splits of every data set, once they are settled."""

UNLABELLED = -1
UNNAMED_CLASSES = 2**16
"""How many classes there may be without names where there are fewer images."""


@dataclass(frozen=True, eq=False)
class Split:
    """An indexed part of a store: `split[i]` is (uint8 RGB image [height, width, 3], class index)."""

    store: Store
    rows: Int64[np.ndarray, " samples"]
    labels: Int64[np.ndarray, " samples"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        """Decode an image, and return it with its class. Raises InputError when that cannot be done."""
        return self.store.image(int(self.rows[index])), int(self.labels[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return the (height, width) of an image as it is stored."""
        return self.store.size(int(self.rows[index]))

    def name(self, index: int) -> str:
        """Return what to call an image in a message."""
        return self.store.name(int(self.rows[index]))

    def select(self, indices: Int64[np.ndarray, " selected"]) -> Split:
        """Return the split of these indices, in their order."""
        return Split(self.store, self.rows[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Source:
    """What an opener finds, before any split is drawn.

    Attributes:
        name: What reports call the data set.
        classes: Names by class index.
        splits: Named splits: "train" always, "val" and "test" where they exist.
        notes: Plain sentences on what was decided.
        mirrorable: False where the mirror image of a sample is another class or none, as with digits.
        render: Builds the store of all splits anew for images of another (height, width), for images that are
            drawn at whatever size is asked for; None for all others.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    mirrorable: bool = True
    render: Callable[[tuple[int, int]], Store] | None = None


def whole(store: Store, labels: Sequence[int] | Int64[np.ndarray, " samples"]) -> Split:
    """Return the split of every row of a store, in order."""
    return Split(store, np.arange(len(store), dtype=np.int64), np.asarray(labels, dtype=np.int64))


def labelled_splits(
    where: str,
    stores: Mapping[str, Store],
    labels: Mapping[str, Int64[np.ndarray, " _"]],
    classes: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], dict[str, Split], tuple[str, ...]]:
    """Build splits from stores with a label for every row.

    A split whose labels are all -1 (a public test set without answers) is left out, with a note.

    Args:
        where: What error messages call the data.
        stores: The images of each split.
        labels: The class index of each row, by split.
        classes: Names by class index; None names the classes by number.

    Returns:
        The names of the classes, the splits by name, and notes on what was decided.

    Raises:
        InputError: A label lies outside the classes, or is beyond what the number of samples allows; or the classes are
            splits.
    """
    hidden = [name for name, values in labels.items() if len(values) and (values == UNLABELLED).all()]
    known = {name: values for name, values in labels.items() if name not in hidden}
    notes = [f"{name}: left out, its labels are all -1, which means unlabelled" for name in hidden]
    if classes is None:
        classes = _numbered(where, known)
        unused = len(classes) - len(np.unique(np.concatenate([*known.values(), np.zeros(0, dtype=np.int64)])))
        notes.append("the data names no classes: they are named by number")
        if unused > 0:
            notes.append(f"classes without any image: {unused} of {len(classes)}, since labels are counted from 0")
    check_class_names(where, classes)
    for name, values in known.items():
        outside = values[(values < 0) | (values >= len(classes))]
        if len(outside):
            raise InputError(
                f"{where}: the {name} split has the label {outside[0]}, but there are {len(classes)} classes (0 to "
                f"{len(classes) - 1}); correct the labels or the class names."
            )
    return classes, {name: whole(stores[name], values) for name, values in known.items()}, tuple(notes)


def _numbered(where: str, labels: Mapping[str, Int64[np.ndarray, " _"]]) -> tuple[str, ...]:
    """Return the classes 0 to the largest label, which a damaged label would make too many for any memory."""
    most = max(sum(map(len, labels.values())), UNNAMED_CLASSES)
    for name, values in labels.items():
        if len(values) and values.max() >= most:
            raise InputError(
                f"{where}: the {name} split has the label {values.max()}, too large a class index for so few images; number "
                "the classes from 0, or name them."
            )
    largest = max((int(values.max()) for values in labels.values() if len(values)), default=-1)
    return tuple(str(index) for index in range(largest + 1))


def readable_sizes(split: Split, rows: Iterable[int]) -> set[tuple[int, int]]:
    """Collect the (height, width) of these images, without those that cannot be read: loaders complain of them, or skip them."""
    sizes = set()
    for row in rows:
        with suppress(InputError):
            sizes.add(split.size(row))
    return sizes


def readable_size(split: Split) -> tuple[int, int]:
    """Return the (height, width) of the first image that can be read. Raises the first one's InputError when none can."""
    rows = range(len(split))
    return next((size for row in rows for size in readable_sizes(split, [row])), None) or split.size(0)


def draw_stratified(
    labels: Int64[np.ndarray, " samples"], fraction: float, parts: int, *seed: int | str
) -> list[Int64[np.ndarray, " drawn"]]:
    """Draw `parts` disjoint sets of indices, each with `fraction` of every class. They depend on labels and seed alone.

    Of a class with n images each part gets max(1, round(fraction * n)), but never so many that the rest has none left:
    a class with too few images stays out of the parts.

    Returns:
        The parts, and behind them the rest, each ascending.
    """
    drawn: list[list[np.ndarray]] = [[] for _ in range(parts + 1)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[permutation(len(members), *seed, int(label))]
        each = min(max(1, round(fraction * len(members))), (len(members) - 1) // parts)
        for part in range(parts):
            drawn[part].append(members[part * each : (part + 1) * each])
        drawn[parts].append(members[parts * each :])
    return [np.sort(np.concatenate(pieces)) if pieces else np.zeros(0, dtype=np.int64) for pieces in drawn]


def settle_splits(source: Source, val_fraction: float, split_seed: int) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Settle train, validation and test by the rule of this file.

    Args:
        source: What an opener found.
        val_fraction: Share of each class that is drawn for a missing split, above 0 and below 0.5.
        split_seed: What the draw depends on, besides the labels in their order.

    Returns:
        The three splits by name, and a sentence on each decision.

    Raises:
        InputError: There is no train split, a split is empty, or classes are too small to draw from.
    """
    if not 0.0 < val_fraction < 0.5:
        raise InputError(f"`val_fraction` must be above 0 and below 0.5, got {val_fraction}.")
    found = dict(source.splits)
    for name, split in found.items():
        if len(split) == 0:
            raise InputError(f"{source.name}: the {name} split holds no images.")
    if "train" not in found:
        raise InputError(f"{source.name}: there is no train split, only {', '.join(found) or 'nothing'}.")
    notes: list[str] = []
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
        notes.append(f"no test split: val ({len(found['test'])} images) is the test split, held out until the end")
    missing = [name for name in ("test", "val") if name not in found]
    if missing:
        train = found["train"]
        *drawn, rest = draw_stratified(train.labels, val_fraction, len(missing), "split", split_seed)
        if len(drawn[0]) == 0:
            needed = len(missing) + 1
            raise InputError(
                f"{source.name}: no class has the {needed} images needed to draw {' and '.join(missing)} from train: "
                "add images."
            )
        for name, indices in zip(missing, drawn, strict=True):
            found[name] = train.select(indices)
            long_name = "validation" if name == "val" else name
            notes.append(f"{long_name}: {len(indices)} images drawn from train, stratified, split seed {split_seed}")
        found["train"] = train.select(rest)
        left_out = len(np.unique(train.labels)) - len(np.unique(found["val"].labels))
        if left_out:
            notes.append(f"classes with too few images to appear among the drawn ones: {left_out}")
    return {name: found[name] for name in SPLITS}, tuple(notes)
