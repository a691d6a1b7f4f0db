"""Order: which samples make up each batch of an epoch, the same for every loader, whatever it cuts the batches from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from angularkd.data.splits import Split
from angularkd.data.stores import GroupedStore
from angularkd.data.views.seeds import permutation
from angularkd.errors import InputError


@dataclass(frozen=True, eq=False)
class SampleGroups:
    """The groups in which the samples of a split are read.

    Attributes:
        group_of: The group of each sample, numbered from 0 without gaps.
        sizes_bytes: What each group takes in memory.
        window_bytes: How many bytes of groups can be held at once.
    """

    group_of: Int64[np.ndarray, " samples"]
    sizes_bytes: Int64[np.ndarray, " groups"]
    window_bytes: int

    @staticmethod
    def of(split: Split) -> SampleGroups | None:
        """Return the groups of a split's samples; None where its store reads each sample alone."""
        if not isinstance(split.store, GroupedStore):
            return None
        groups = split.store.groups
        used, group_of = np.unique(np.searchsorted(groups.starts, split.rows, side="right") - 1, return_inverse=True)
        return SampleGroups(group_of.astype(np.int64), groups.sizes_bytes[used], groups.cache_bytes)

    def windows(self, *seed: int | str) -> Int64[np.ndarray, " samples"]:
        """Shuffle the groups, cut them into windows of at most `window_bytes`, and return the window of each sample.

        Where all groups fit into one window, every sample is in window 0.
        """
        window_of = np.zeros(len(self.sizes_bytes), dtype=np.int64)
        window, filled = 0, 0
        for group in permutation(len(window_of), *seed):
            size = int(self.sizes_bytes[group])
            if filled and filled + size > self.window_bytes:
                window, filled = window + 1, 0
            filled += size
            window_of[group] = window
        return window_of[self.group_of]


@dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch, cut into batches. It depends on (seed, epoch) and on the groups, and on nothing else.

    Samples that are read in groups are shuffled window by window: the groups are shuffled, as many as can be held at once
    make a window, and its samples are shuffled among themselves. So an epoch reads each group once. Where all groups fit
    into one window, and where there are no groups, the order is one permutation of all samples.

    Attributes:
        num_samples: Of the split.
        batch_size: Samples a batch; cut to the split's size where that is smaller.
        seed: What the order depends on, beside the epoch.
        shuffle: True for training; False takes the samples in their order.
        drop_last: Whether the last batch is left out when it is not full.
        groups: The groups that samples are read in, if any.

    Raises:
        InputError: The batch size is below 1.
    """

    num_samples: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    groups: SampleGroups | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        object.__setattr__(self, "batch_size", min(self.batch_size, max(1, self.num_samples)))

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        full, left_over = divmod(self.num_samples, self.batch_size)
        return full if self.drop_last else full + (left_over > 0)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Yield the samples of each batch of an epoch, from the batch of number `first` on."""
        order = self._order(epoch)
        for number in range(first, len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size]

    def _order(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        if not self.shuffle:
            return np.arange(self.num_samples, dtype=np.int64)
        order = permutation(self.num_samples, "order", self.seed, epoch)
        if self.groups is None:
            return order
        windows = self.groups.windows("groups", self.seed, epoch)
        return order[np.argsort(windows[order], kind="stable")]
