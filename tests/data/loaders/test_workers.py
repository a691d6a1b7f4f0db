"""The streaming loader: the same batches whoever decodes them, and each row group read once an epoch."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from angularkd.data import (
    ResidentLoader,
    Split,
    StreamingLoader,
    Views,
    WorkerPool,
    evaluation_loader,
    evaluation_stream,
    in_order,
    load_resident,
    open_data,
)
from angularkd.data.sources.folders import FileStore
from angularkd.data.splits import whole
from angularkd.errors import InputError
from angularkd.types import Batch

SIZE = (16, 12)

pytestmark = pytest.mark.usefixtures("leaves_no_process")


@pytest.fixture(scope="module")
def split(tmp_path_factory, write_photographs) -> Split:
    paths = write_photographs(tmp_path_factory.mktemp("images"), 41)
    return whole(FileStore(paths), [row % 5 for row in range(41)]).select(np.arange(40, 0, -1))


def training(
    split: Split, ops: tuple[str, ...] = ("resized_crop", "flip"), workers: int = 0, **options: object
) -> StreamingLoader:
    settings = {"seed": 1, "shuffle": True, "drop_last": False, "batch_size": 8} | options
    views = Views(ops, len(split), SIZE, seed=1)
    pin_memory = torch.device(settings.get("device", "cpu")).type == "cuda"
    return StreamingLoader(split, views, pool=WorkerPool([split.store], workers, pin_memory=pin_memory), **settings)


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
        and torch.equal(first.indices, second.indices)
        and first.view == second.view
    )


def all_same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) > 0 and all(map(same, first, second))


@pytest.mark.parametrize("ops", [("crop", "flip"), ("resized_crop", "flip", "trivial_augment", "erase")])
def test_images_do_not_depend_on_the_number_of_workers(split, ops) -> None:
    here, one, three = (training(split, ops, workers=workers) for workers in (0, 1, 3))
    for epoch in (0, 3):
        expected = list(here.epoch(epoch))
        assert all_same(list(one.epoch(epoch)), expected)
        assert all_same(list(three.epoch(epoch)), expected)
    assert expected[0].images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("ops", [(), ("flip",), ("crop", "flip"), ("crop", "flip", "rand_augment", "erase")])
def test_without_a_box_batches_are_those_of_the_resident_loader(split, ops) -> None:
    stream = training(split, ops)
    resident = ResidentLoader(
        load_resident(split, SIZE), stream.views, 8, seed=1, shuffle=True, drop_last=False, device="cpu"
    )
    assert len(stream) == len(resident) == 5
    assert stream.batch_size == resident.batch_size == 8
    for epoch in (0, 5):
        assert all_same(list(stream.epoch(epoch)), list(resident.epoch(epoch)))
        assert all_same(list(in_order(stream).epoch(epoch)), list(in_order(resident).epoch(epoch)))


def test_a_box_shows_what_the_resident_loader_shows_but_sharper(split) -> None:
    stream = training(split, ("resized_crop", "flip"))
    resident = ResidentLoader(load_resident(split, SIZE), stream.views, 8, seed=1, shuffle=True, drop_last=False)
    for mine, other in zip(stream.epoch(2), resident.epoch(2), strict=True):
        assert torch.equal(mine.indices, other.indices) and torch.equal(mine.labels, other.labels)
        difference = (mine.images - other.images).abs().mean()
        assert 0 < difference < 0.02
        assert (mine.images - other.images.flip(3)).abs().mean() > 4 * difference


def test_evaluation_shows_each_image_once_in_order(split) -> None:
    stream = evaluation_stream(split, SIZE, 8, pool=WorkerPool([split.store], 0))
    batches = list(stream.epoch(0))
    assert all_same(batches, list(evaluation_loader(load_resident(split, SIZE), 8).epoch(0)))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(40))


@pytest.mark.parametrize("workers", [0, 2])
def test_random_numbers_of_others_are_left_alone(split, workers) -> None:
    before = torch.get_rng_state()
    list(training(split, workers=workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_shows_the_same_images(split) -> None:
    here, there = (training(split, workers=2, device=device) for device in ("cpu", "cuda"))
    for expected, found in zip(here.epoch(1), there.epoch(1), strict=True):
        assert found.images.is_cuda and found.labels.is_cuda and found.indices.device.type == "cpu"
        assert torch.equal(found.images.cpu(), expected.images)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_image_that_cannot_be_decoded_is_named_in_one_line(tmp_path, write_photographs, workers) -> None:
    paths = write_photographs(tmp_path, 24)
    data = paths[17].read_bytes()
    paths[17].write_bytes(data[: len(data) // 2])
    broken = whole(FileStore(paths), [0] * 24)
    with pytest.raises(InputError) as expected:
        load_resident(broken, SIZE)
    loader = training(broken, workers=workers)
    with pytest.raises(InputError) as refusal:
        list(loader.epoch(0))
    assert str(refusal.value) == str(expected.value)
    assert "\n" not in str(refusal.value)
    paths[17].write_bytes(data)
    assert len(list(loader.epoch(0))) == 3


@pytest.fixture
def grouped(tmp_path: Path, write_images, monkeypatch) -> Split:
    """The training split of 90 images in 18 row groups, of which the store holds about five."""
    sizes = [write_images(tmp_path / f"train-{part}.parquet", 45, 5, first=45 * part) for part in range(2)]
    monkeypatch.setattr("angularkd.data.sources.parquet.CACHE_BYTES", 8 * sum(sizes[0][:5]))
    return open_data(f"parquet:{tmp_path}").train


def count_reads(monkeypatch, file: Path) -> None:
    """Let every process note each row group that it reads in a file."""
    read = pq.ParquetFile.read_row_group

    def noted(self: pq.ParquetFile, group: int, **options: object) -> object:
        with file.open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ops", [("flip",), ("resized_crop",)])
def test_a_shuffled_epoch_reads_each_row_group_once_in_each_process(
    grouped, tmp_path, monkeypatch, workers, ops
) -> None:
    count_reads(monkeypatch, tmp_path / "reads")
    loader = training(grouped, ops, workers=workers)
    groups = loader.order.groups
    assert groups is not None and len(groups.sizes_bytes) == 18
    assert len(set(groups.windows("groups", 1, 0).tolist())) > 2
    for epoch in (0, 1):
        (tmp_path / "reads").unlink(missing_ok=True)
        order = [index for batch in loader.epoch(epoch) for index in batch.indices.tolist()]
        assert sorted(order) == list(range(len(grouped)))
        reads = Counter((tmp_path / "reads").read_text().splitlines())
        assert len(reads) == max(1, workers)
        assert all(count <= 18 for count in reads.values())
        assert epoch or workers == 2 or list(reads.values()) == [18]
    assert order == [index for batch in loader.order.batches(1) for index in batch.tolist()]


def test_parquet_in_one_window_has_the_order_of_the_resident_loader(tmp_path, write_images) -> None:
    write_images(tmp_path / "train.parquet", 60)
    split = open_data(f"parquet:{tmp_path}").train
    stream = training(split, ("flip",), workers=1)
    resident = ResidentLoader(load_resident(split, SIZE), stream.views, 8, seed=1, shuffle=True, drop_last=False)
    assert all_same(list(stream.epoch(3)), list(resident.epoch(3)))


def test_views_of_another_split_are_refused_in_one_line(split) -> None:
    pool = WorkerPool([split.store], 0)
    with pytest.raises(InputError) as refusal:
        StreamingLoader(split, Views(("flip",), 9, SIZE), 4, seed=0, shuffle=False, drop_last=False, pool=pool)
    assert "views of 9 images do not fit 40 images" in str(refusal.value) and "\n" not in str(refusal.value)
