"""Batches: what a run draws its samples from, however they are made."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

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


def in_order(batches: Batches) -> Batches:
    """Return the same views of the same images, but all samples in their order, none left out.

    Raises:
        TypeError: The batches are mixed, so that their images depend on the order.
    """
    if not isinstance(batches, OrderedBatches):
        raise TypeError(f"expected the batches of a loader, got {type(batches).__name__}: mixed images have one order")
    ordered = copy.copy(batches)
    ordered.order = replace(batches.order, shuffle=False, drop_last=False)
    return ordered
