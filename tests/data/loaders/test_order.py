"""The order of an epoch: one permutation, or groups walked window by window, each sample once either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from angularkd.data import Split
from angularkd.data.loaders.order import EpochOrder, SampleGroups
from angularkd.data.sources.parquet import ParquetStore
from angularkd.data.splits import whole
from angularkd.data.stores import ArrayStore, RowGroups
from angularkd.data.views.seeds import permutation


def grouped(window: int, counts: tuple[int, ...] = (7, 3, 5, 9, 4), sizes: tuple[int, ...] = (70, 30, 50, 90, 40)):
    group_of = np.repeat(np.arange(len(counts)), counts)
    return SampleGroups(group_of, np.array(sizes), window)


def order_of(groups: SampleGroups | None, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> list[int]:
    order = EpochOrder(28, 5, seed, shuffle, False, groups)
    return [index for batch in order.batches(epoch) for index in batch.tolist()]


@pytest.mark.parametrize("window", [280, 1000])
def test_where_all_fits_into_one_window_the_order_is_one_permutation(window) -> None:
    expected = permutation(28, "order", 3, 2).tolist()
    assert order_of(grouped(window), 3, 2) == order_of(None, 3, 2) == expected


@pytest.mark.parametrize("window", [1, 90, 120, 279])
def test_windows_of_whole_groups_follow_each_other(window) -> None:
    groups = grouped(window)
    order = order_of(groups, 1, 4)
    assert sorted(order) == list(range(28))
    windows = groups.windows("groups", 1, 4)[order].tolist()
    assert windows == sorted(windows)
    for number in set(windows):
        members = {int(groups.group_of[sample]) for sample in order if groups.windows("groups", 1, 4)[sample] == number}
        assert len(members) == 1 or sum(int(groups.sizes_bytes[group]) for group in members) <= window
    if window == 279:
        assert len(set(windows)) == 2


def test_groups_and_their_samples_are_shuffled_by_seed_and_epoch() -> None:
    groups = grouped(120)
    first = order_of(groups)
    assert first == order_of(groups)
    assert len({tuple(order_of(groups, seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6
    leading = {int(groups.group_of[order_of(groups, epoch=epoch)[0]]) for epoch in range(20)}
    assert len(leading) == 5
    inside = [sample for sample in first if groups.group_of[sample] == 3]
    assert inside != sorted(inside)
    assert order_of(groups, shuffle=False) == list(range(28))


class Grouped(ArrayStore):
    """Rows in groups of 4, 0 and 6 rows."""

    groups = RowGroups(np.array([0, 4, 4, 10]), np.array([40, 0, 60]), 100)


def test_groups_of_a_split_are_those_that_it_uses() -> None:
    pixels = np.zeros((10, 2, 2, 3), dtype=np.uint8)
    split = whole(Grouped("a", pixels), [0] * 10).select(np.array([9, 1, 4, 3]))
    groups = SampleGroups.of(split)
    assert groups is not None and groups.group_of.tolist() == [1, 0, 1, 0]
    assert groups.sizes_bytes.tolist() == [40, 60] and groups.window_bytes == 100
    last = SampleGroups.of(split.select(np.array([0, 2])))
    assert last is not None and last.group_of.tolist() == [0, 0] and last.sizes_bytes.tolist() == [60]
    assert SampleGroups.of(whole(ArrayStore("b", pixels), [0] * 10)) is None


def test_parquet_files_say_what_their_groups_take(tmp_path: Path, write_images, monkeypatch) -> None:
    monkeypatch.setattr("angularkd.data.sources.parquet.CACHE_BYTES", 12345)
    files = [tmp_path / "train-0.parquet", tmp_path / "train-1.parquet"]
    sizes = [write_images(file, count) for file, count in zip(files, (11, 5), strict=True)]
    groups = ParquetStore(files).groups
    assert groups.starts.tolist() == [0, 4, 8, 11, 15, 16] and groups.cache_bytes == 12345
    of_images = [sum(size[start : start + 4]) for size in sizes for start in range(0, len(size), 4)]
    assert len(of_images) == len(groups.sizes_bytes)
    for measured, bytes_ in zip(groups.sizes_bytes.tolist(), of_images, strict=True):
        assert bytes_ <= measured < 4 * bytes_  # with paths, and headers that repeat an image or two
    split = Split(ParquetStore(files), np.arange(16), np.zeros(16, dtype=np.int64))
    assert SampleGroups.of(split) is not None
