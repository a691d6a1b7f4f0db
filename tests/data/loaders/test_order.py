"""The order of an epoch: one permutation, or groups walked window by window, each sample once either way."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from angularkd.data import Split
from angularkd.data.loaders.order import EpochOrder, SampleGroups
from angularkd.data.sources.parquet import ParquetStore
from angularkd.data.splits import whole
from angularkd.data.stores import ArrayStore, RowGroups
from angularkd.data.views.seeds import permutation
from angularkd.errors import InputError


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


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def parts_of(order: EpochOrder, count: int, epoch: int = 1) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in order.part_of_batches(part, count).batches(epoch)] for part in range(count)]


@pytest.mark.parametrize("groups", [None, grouped(1000)])
def test_processes_take_equal_parts_of_the_same_batches(groups) -> None:
    order = EpochOrder(28, 6, 0, True, True, groups)
    parts = parts_of(order, 3)
    assert all(len(batch) == 2 for part in parts for batch in part)
    assert [flat(batch) for batch in zip(*parts, strict=True)] == [batch.tolist() for batch in order.batches(1)]
    assert [batch.tolist() for batch in order.part_of_batches(1, 3).batches(1, first=2)] == parts[1][2:]


def test_batches_that_are_no_equal_parts_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"all 4 processes together, and 6 images are no equal parts: give a multiple of 4"
    ):
        EpochOrder(28, 6, 0, True, True).part_of_batches(0, 4)


def test_processes_read_groups_of_their_own_where_these_do_not_fit_into_memory() -> None:
    groups = grouped(300, counts=(25,) * 40, sizes=(100,) * 40)
    order = EpochOrder(1000, 32, 0, True, True, groups)
    parts = parts_of(order, 4)
    assert [len(part) for part in parts] == [len(order)] * 4
    samples = [flat(part) for part in parts]
    assert len(set(flat(samples))) == len(order) * 32
    read = [set(groups.group_of[part].tolist()) for part in samples]
    assert sum(map(len, read)) <= 40 + 4
    assert set.union(*read) == set(range(40))


def test_unequal_groups_are_shared_so_that_each_process_has_its_steps() -> None:
    order = EpochOrder(28, 4, 3, True, True, grouped(90))
    samples = [flat(part) for part in parts_of(order, 2)]
    assert [len(part) for part in samples] == [14, 14]
    assert sorted(flat(samples)) == list(range(28))


@pytest.mark.parametrize("count", [2, 3])
def test_processes_evaluate_every_sample_once_in_its_order(count) -> None:
    order = EpochOrder(28, 5, 0, False, False)
    parts = [order.part_of_samples(part, count) for part in range(count)]
    assert [index for part in parts for batch in part.batches(0) for index in batch.tolist()] == list(range(28))
    assert max(part.num_samples for part in parts) - min(part.num_samples for part in parts) <= 1
