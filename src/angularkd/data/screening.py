"""Leaving out images that cannot be decoded, before anything counts, numbers or draws views of the images."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from angularkd.data.in_memory import IMAGES_PER_TASK, cores
from angularkd.data.opening import DataSet
from angularkd.data.splits import Split
from angularkd.errors import InputError

SPLITS = ("train", "val", "test")
NAMED = 3
"""How many of them a note names."""


def without_bad_images(dataset: DataSet, splits: Collection[str] = SPLITS, *, threads: int | None = None) -> DataSet:
    """The data set without the images of these splits that cannot be decoded: each split is decoded once to find them.

    A note of each split says how many were left out and names some; `left_out` says of every one what is wrong with it.
    The splits are drawn before, so that the images left are in the same splits as with the bad ones repaired.
    Raises InputError when no image of a split is left.
    """
    notes = list(dataset.notes)
    left_out = list(dataset.left_out)
    found: dict[str, Split] = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    for name in sorted(splits, key=SPLITS.index):
        split = found[name]
        complaints = find_bad_images(split, threads=threads)
        if complaints and len(complaints) == len(split):
            raise InputError(f"none of the {len(split)} images of the {name} split can be decoded: {complaints[0]}")
        if complaints:
            names = [split.name(index) for index in list(complaints)[:NAMED]]
            more = f" and {len(complaints) - NAMED} more" if len(complaints) > NAMED else ""
            notes.append(
                f"{name}: left out {len(complaints)} of {len(split)} images, which cannot be decoded: {', '.join(names)}{more}"
            )
            left_out += complaints.values()
            found[name] = split.select(np.setdiff1d(np.arange(len(split)), list(complaints)))
    return replace(
        dataset,
        train=found["train"],
        val=found["val"],
        test=found["test"],
        notes=tuple(notes),
        left_out=tuple(left_out),
    )


def find_bad_images(split: Split, *, threads: int | None = None) -> dict[int, str]:
    """Every index of the split whose image cannot be decoded, ascending, with what is wrong with it."""

    def decode(start: int) -> dict[int, str]:
        found = {}
        for index in range(start, min(start + IMAGES_PER_TASK, len(split))):
            try:
                split[index]
            except InputError as error:
                found[index] = str(error)
        return found

    with ThreadPoolExecutor(threads or cores()) as pool:
        parts = pool.map(decode, range(0, len(split), IMAGES_PER_TASK))
        return {index: complaint for part in parts for index, complaint in part.items()}
