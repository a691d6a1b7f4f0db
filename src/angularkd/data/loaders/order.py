"""Order: which samples make up each batch of an epoch, the same for every loader, whatever it cuts the batches from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

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

    def owners(self, count: int, *seed: int | str) -> Int64[np.ndarray, " samples"]:
        """Share the groups among processes, nearly as many samples each, and return the process of each sample."""
        owner_of, filled = np.zeros(len(self.sizes_bytes), dtype=np.int64), np.zeros(count, dtype=np.int64)
        lengths = np.bincount(self.group_of, minlength=len(owner_of))
        for group in permutation(len(owner_of), *seed):
            owner_of[group] = filled.argmin()
            filled[owner_of[group]] += lengths[group]
        return owner_of[self.group_of]

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

    A process that takes a part of each batch takes it from the same batches as all others, but where samples are read in groups of
    more than one window: there it reads groups of its own, so that all processes together read each group once or nearly.

    Attributes:
        num_samples: Of the split.
        batch_size: Samples a batch; cut to the split's size where that is smaller.
        seed: What the order depends on, beside the epoch.
        shuffle: True for training; False takes the samples in their order.
        drop_last: Whether the last batch is left out when it is not full.
        groups: The groups that samples are read in, if any.
        first: The first sample, where samples are taken in their order.
        part: Which part of each batch is yielded, and of how many, for a process of several.

    Raises:
        InputError: The batch size is below 1.
    """

    num_samples: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    groups: SampleGroups | None = None
    first: int = 0
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        object.__setattr__(self, "batch_size", min(self.batch_size, max(1, self.num_samples)))

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        full, left_over = divmod(self.num_samples, self.batch_size)
        return full if self.drop_last else full + (left_over > 0)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Yield the samples of each batch of an epoch, or the part of them, from the batch of number `first` on."""
        (part, parts), order = self.part, self._order(epoch)
        if parts > 1 and self.shuffle and self.drop_last and self._has_windows(epoch):
            yield from self._of_own_groups(epoch, order, first)
            return
        for number in range(first, len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield batch[len(batch) * part // parts : len(batch) * (part + 1) // parts]

    def _has_windows(self, epoch: int) -> bool:
        return self.groups is not None and int(self.groups.windows("groups", self.seed, epoch).max()) > 0

    def _of_own_groups(
        self, epoch: int, order: Int64[np.ndarray, " samples"], first: int
    ) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Yield this process's part of each batch: samples of its own groups, and at the end some that others have too many of."""
        assert self.groups is not None
        part, parts = self.part
        size = self.batch_size // parts
        needed = len(self) * size
        owners = self.groups.owners(parts, "owners", self.seed, epoch)[order]
        all_own = [order[owners == number] for number in range(parts)]
        lacking = [max(0, needed - len(own)) for own in all_own]
        too_many = np.concatenate([own[needed:] for own in all_own])
        begin = sum(lacking[:part])
        own = np.concatenate([all_own[part][:needed], too_many[begin : begin + lacking[part]]])
        for number in range(first, len(self)):
            yield own[number * size : (number + 1) * size]

    def part_of_batches(self, number: int, count: int) -> EpochOrder:
        """Return the order of a process that takes one part of each batch, while others take the others.

        Raises:
            InputError: The batches cannot be divided into so many equal parts.
        """
        if self.batch_size % count:
            raise InputError(
                f"`batch_size` is that of all {count} processes together, and {self.batch_size} images are no equal parts: give a "
                f"multiple of {count}"
            )
        return replace(self, part=(number, count))

    def part_of_samples(self, number: int, count: int) -> EpochOrder:
        """Return the order of a process that takes one part of the samples, as they come, while others take the others."""
        begin, end = (self.num_samples * place // count for place in (number, number + 1))
        return replace(self, num_samples=end - begin, first=self.first + begin)

    def _order(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        if not self.shuffle:
            return np.arange(self.first, self.first + self.num_samples, dtype=np.int64)
        order = permutation(self.num_samples, "order", self.seed, epoch)
        if self.groups is None:
            return order
        windows = self.groups.windows("groups", self.seed, epoch)
        return order[np.argsort(windows[order], kind="stable")]
