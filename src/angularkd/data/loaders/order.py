"""Which samples make up each batch of an epoch: the same for every loader, whatever it cuts the batches from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from angularkd.data.views.seeds import permutation
from angularkd.errors import InputError


@dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch, cut into batches, and a rank's share of each.

    The order depends on (seed, epoch) alone. With several ranks it is cut into global batches of batch_size * world_size
    samples, and rank r takes every world_size-th sample of each, from the r-th on: two ranks with batch size b see
    together what one rank with batch size 2 b sees.

    num_samples: of the split.
    batch_size:  samples a batch, on each rank; cut to the split's size where that is smaller.
    shuffle:     True for training: then all ranks have equally many batches of equal size, for which the last global
                 batch loses up to world_size - 1 samples. False for evaluation: samples in order, each exactly once
                 over all ranks, of which some may have one batch or one sample more.
    drop_last:   leave out the last global batch when it is not full.

    Raises InputError when numbers are out of range or do not fit together.
    """

    num_samples: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"the batch size must be at least 1, got {self.batch_size}.")
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"the rank must be from 0 to world_size - 1 = {self.world_size - 1}, got {self.rank}.")
        if self.shuffle and self.num_samples < self.world_size:
            raise InputError(
                f"{self.num_samples} images cannot be shared by {self.world_size} ranks; use fewer processes."
            )

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch over all ranks."""
        return min(self.batch_size, max(1, self.num_samples // self.world_size)) * self.world_size

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        full, left_over = divmod(self.num_samples, self.global_batch_size)
        if self.drop_last:
            return full
        if self.shuffle:
            return full + (left_over >= self.world_size)
        return full + (left_over > self.rank)

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[Int64[np.ndarray, " batch"]]:
        """The indices of this rank's batches of an epoch, from `first_batch` on."""
        order = self._order(epoch)
        for number in range(first_batch, len(self)):
            chunk = order[number * self.global_batch_size : (number + 1) * self.global_batch_size]
            if self.shuffle:
                chunk = chunk[: len(chunk) - len(chunk) % self.world_size]
            yield np.ascontiguousarray(chunk[self.rank :: self.world_size])

    def _order(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        if self.shuffle:
            return permutation(self.num_samples, "order", self.seed, epoch)
        return np.arange(self.num_samples, dtype=np.int64)
