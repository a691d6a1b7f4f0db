"""Whether a network has learned anything: what it gets right, against what guessing would get right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from angularkd.data import Split
from angularkd.errors import InputError
from angularkd.training.build_data import Data

EVIDENCE = 0.01
"""Probability below which what one gets right, or more of it, is not put down to guessing."""
PLAIN_EVIDENCE = 1e-4
"""The same, for images whose classes are not equally frequent, from which alone nothing is refused."""
DOUBT = 0.05
"""Probability below which what one gets right, or less of it, is too little for one who is halfway between guessing and perfect."""
CLASSIFIED_AGAIN = 500
"""Images at most that are classified again, equally many of each class."""


@dataclass(frozen=True)
class Score:
    """How many of some images were classified correctly, and the share that guessing gets right.

    By exact binomial tests it is above chance, at chance, or neither, where the images are too few to tell.
    """

    right: int
    images: int
    chance: float

    @property
    def accuracy(self) -> float:
        """Return the share that is right."""
        return self.right / self.images

    @property
    def above_chance(self) -> bool:
        """Return whether guessing would hardly ever get so many right."""
        return binomial_tail(self.right, self.images, self.chance) < EVIDENCE

    @property
    def plainly_above_chance(self) -> bool:
        """Return whether guessing would practically never get so many right."""
        return binomial_tail(self.right, self.images, self.chance) < PLAIN_EVIDENCE

    @property
    def at_chance(self) -> bool:
        """Return whether these are no more than guessing may get right, and fewer than who has learned something would."""
        halfway = (1 + self.chance) / 2
        wrong = self.images - self.right
        return not self.above_chance and binomial_tail(wrong, self.images, 1 - halfway) < DOUBT


def binomial_tail(least: int, trials: int, probability: float) -> float:
    """Return the probability of `least` successes or more in independent trials that each succeed with `probability`."""
    if least <= 0 or probability >= 1:
        return 1.0
    if probability <= 0:
        return 0.0
    success, failure = math.log(probability), math.log1p(-probability)
    ways = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            ways - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * success + (trials - k) * failure,
        )
        for k in range(least, trials + 1)
    )


def score(accuracy: float, labels: Int64[np.ndarray, " samples"]) -> Score:
    """Return the score of an accuracy on images of these classes; guessing is to name the most frequent class always."""
    images = len(labels)
    return Score(round(accuracy * images), images, int(np.bincount(labels).max()) / images)


def check_better_than_chance(
    data: Data, first: Score, accuracy: Callable[[Data, str], float], train_rows: Int64[np.ndarray, " rows"]
) -> list[str]:
    """Check that a teacher is better than guessing; where some validation images do not say so plainly, more images are asked.

    Args:
        data: the data set.
        first: the teacher's score on validation images.
        accuracy: returns its accuracy on a split of data.
        train_rows: the training images that may be asked.

    Returns:
        A note where all these images are too few to tell.

    Raises:
        InputError: where equally many images of each class say that it guesses.
    """
    if first.plainly_above_chance:
        return []
    rows = {"val": np.arange(len(data.dataset.val)), "train": train_rows}
    parts = {split: balanced(data, split, rows[split]) for split in rows if len(rows[split])}
    labels = {split: part.dataset.splits[split].labels for split, part in parts.items()}
    shares = [accuracy(part, split) * len(labels[split]) for split, part in parts.items()]
    every = np.concatenate(list(labels.values()))
    again = score(sum(shares) / len(every), every)
    found = f"{again.accuracy:.1%} on {again.images:,} images of the validation and training splits, equally many of each class"
    if again.at_chance:
        raise InputError(
            f"the teacher's accuracy is {found}, no better than chance ({again.chance:.1%}): "
            "check its weights, its normalization and the order of its classes"
        )
    if again.above_chance:
        return []
    return [f"the teacher's accuracy is {found}: too few to tell it from chance ({again.chance:.1%})"]


def balanced(data: Data, split: str, rows: Int64[np.ndarray, " rows"], most: int = CLASSIFIED_AGAIN) -> Data:
    """Return the data with equally many images of each class that occurs among some rows of a split, `most` in all.

    Of more classes than `most`, so many have an image each. Which images are taken depends on nothing but the rows.
    """
    images = data.dataset.splits[split]
    labels = images.labels[rows]
    classes = np.unique(labels)
    if len(classes) > most:
        classes = classes[np.linspace(0, len(classes) - 1, most, dtype=np.int64)]
    members = [rows[labels == label] for label in classes]
    each = min(max(1, most // len(classes)), *map(len, members)) if len(classes) else 0
    taken = [held[np.linspace(0, len(held) - 1, each, dtype=np.int64)] for held in members]
    return selected(data, split, np.sort(np.concatenate(taken)))


def selected(data: Data, split: str, rows: Int64[np.ndarray, " rows"]) -> Data:
    """Return the data with these rows of a split alone."""
    data.load(split)  # from which the images are selected
    images: Split = data.dataset.splits[split]
    return replace(data, dataset=replace(data.dataset, **{split: images.select(rows)}))  # type: ignore[arg-type]
