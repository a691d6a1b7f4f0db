"""Screening: images that cannot be decoded are left out before anything counts, numbers or draws views of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from angularkd.data.decoded import without
from angularkd.data.opening import DataSet
from angularkd.data.splits import SPLITS
from angularkd.errors import InputError

NAMED = 3
"""How many of them a note names."""


def without_bad_images(dataset: DataSet, bad_images: Mapping[str, Mapping[int, str]]) -> DataSet:
    """Return the data set without some images of its splits.

    A note of each split says how many are left out and names some; `left_out` says of every one what is wrong with it.
    The splits were drawn before, so that the images left are in the same splits as with the bad ones repaired.

    Args:
        dataset: The data set, its splits settled.
        bad_images: By split, the index of each image that cannot be decoded, ascending, with what is wrong with it.

    Raises:
        InputError: No image of a split is left.
    """
    notes, left_out = list(dataset.notes), list(dataset.left_out)
    found = dict(dataset.splits)
    for name in sorted(bad_images, key=SPLITS.index):
        split, bad = found[name], bad_images[name]
        if not bad:
            continue
        if len(bad) == len(split):
            raise InputError(f"none of the {len(split)} images of the {name} split can be decoded: {bad[0]}")
        names = [split.name(index) for index in list(bad)[:NAMED]]
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        notes.append(
            f"{name}: left out {len(bad)} of {len(split)} images, which cannot be decoded: {', '.join(names)}{more}"
        )
        left_out += bad.values()
        found[name] = without(split, bad)
    emptied = sorted(set(dataset.train.labels.tolist()) - set(found["train"].labels.tolist()))
    if emptied:
        notes.append(
            f"train: no image is left of {', '.join(dataset.classes[label] for label in emptied[:NAMED])}"
            f"{f' and {len(emptied) - NAMED} more classes' if len(emptied) > NAMED else ''}, which cannot be learned"
        )
    return replace(
        dataset,
        train=found["train"],
        val=found["val"],
        test=found["test"],
        notes=tuple(notes),
        left_out=tuple(left_out),
    )
