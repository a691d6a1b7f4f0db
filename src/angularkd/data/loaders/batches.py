"""Batches: what a run draws its samples from, however they are made."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

from angularkd.data.loaders.order import EpochOrder
from angularkd.data.views.tables import Views
from angularkd.types import Batch


@runtime_checkable
class Batches(Protocol):
    """What a run draws its batches from: a `ResidentLoader`, a `StreamingLoader`, or `MixedBatches` of one of them."""

    @property
    def views(self) -> Views:
        """Return the augmentations: epoch e gives view e, mod their number."""
        ...

    @property
    def batch_size(self) -> int:
        """Return the number of samples of a full batch."""
        ...

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        ...

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the batch of number `first` on."""
        ...

    def part_of_batches(self, number: int, count: int) -> Batches:
        """Return batches that are one of `count` equal parts of these each, for a process of several.

        Raises:
            InputError: They cannot be divided into so many.
        """
        ...

    def part_of_samples(self, number: int, count: int) -> Batches:
        """Return batches of one of `count` parts of the samples, which are taken in their order."""
        ...


class OrderedBatches:
    """Base of the loaders, whose batches are of samples as they are, in an order that can be exchanged."""

    order: EpochOrder

    @property
    def batch_size(self) -> int:
        """Return the number of samples of a full batch."""
        return self.order.batch_size

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self.order)

    def part_of_batches(self, number: int, count: int) -> Batches:
        """Return batches that are one of `count` equal parts of these each, for a process of several.

        Raises:
            InputError: They cannot be divided into so many.
        """
        return self._with(self.order.part_of_batches(number, count))

    def part_of_samples(self, number: int, count: int) -> Batches:
        """Return batches of one of `count` parts of the samples, which are taken in their order."""
        return self._with(self.order.part_of_samples(number, count))

    def _with(self, order: EpochOrder) -> Batches:
        ordered = copy.copy(self)
        ordered.order = order
        return cast("Batches", ordered)  # a loader


def in_order(batches: Batches) -> Batches:
    """Return the same views of the same images, but all samples in their order, none left out.

    Raises:
        TypeError: The batches are mixed, so that their images depend on the order.
    """
    if not isinstance(batches, OrderedBatches):
        raise TypeError(f"expected the batches of a loader, got {type(batches).__name__}: mixed images have one order")
    return batches._with(replace(batches.order, shuffle=False, drop_last=False))
