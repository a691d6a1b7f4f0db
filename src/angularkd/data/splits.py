"""Train, validation and test: which images belong to which, decided by one rule for every source.

The test split is never looked at before the end: where a source has only `train` and `val` (ImageNet and its children),
`val` is the test split and validation images are drawn from `train`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from angularkd.data.seeds import permutation
from angularkd.errors import InputError


@runtime_checkable
class Store(Protocol):
    """Where images are kept: one row an image, decoded when it is asked for. Safe to read from several threads."""

    def __len__(self) -> int: ...

    def image(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """The decoded image in RGB."""
        ...

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of the image, without decoding it where the format allows."""
        ...

    def name(self, row: int) -> str:
        """What to call the image in a message: its path, or file and row."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """An indexed part of a store: `split[i]` is (uint8 RGB image [height, width, 3], class index)."""

    store: Store
    rows: Int64[np.ndarray, " samples"]
    labels: Int64[np.ndarray, " samples"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        return self.store.image(int(self.rows[index])), int(self.labels[index])

    def size(self, index: int) -> tuple[int, int]:
        return self.store.size(int(self.rows[index]))

    def name(self, index: int) -> str:
        return self.store.name(int(self.rows[index]))

    def select(self, indices: Int64[np.ndarray, " selected"]) -> Split:
        return Split(self.store, self.rows[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Source:
    """What an opener found: named splits ("train" always, "val" and "test" where they exist), before any is drawn."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    mirrorable: bool = True
    """False where the mirror image of a sample is another class or none, as with digits."""


def whole(store: Store, labels: Sequence[int] | Int64[np.ndarray, " samples"]) -> Split:
    """Every row of a store, in order."""
    return Split(store, np.arange(len(store), dtype=np.int64), np.asarray(labels, dtype=np.int64))


def draw_stratified(
    labels: Int64[np.ndarray, " samples"], fraction: float, parts: int, *seed: int | str
) -> list[Int64[np.ndarray, " drawn"]]:
    """Draw `parts` disjoint sets of indices, each with `fraction` of every class, and return them with the rest last.

    Of a class with n images each part gets max(1, round(fraction * n)), but never so many that the rest has none left:
    a class with too few images stays out of the parts. Each set is ascending. Depends on labels and seed alone.
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
    """Train, validation and test by the rule of this file, and a sentence on each decision.

    Raises InputError when there is no train split, when a split is empty, or when classes are too small to draw from.
    """
    if not 0.0 < val_fraction < 0.5:
        raise InputError(f"val_fraction must be above 0 and below 0.5, got {val_fraction}.")
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
    return {name: found[name] for name in ("train", "val", "test")}, tuple(notes)
