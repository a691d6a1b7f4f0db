"""The streaming loader: the same batches whoever decodes them, one-line errors, and no process left behind."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import angularkd
from angularkd.config.commands import TrainConfig
from angularkd.data import resident as resident_module
from angularkd.data.in_memory import channel_stats, load_resident
from angularkd.data.loaders import workers as streaming
from angularkd.data.loaders.resident import ResidentLoader, evaluation_loader
from angularkd.data.loaders.workers import StreamingLoader, evaluation_stream, fits_memory, sampled_channel_stats
from angularkd.data.sources.folders import FileStore
from angularkd.data.splits import ArrayStore, Split, whole
from angularkd.data.views.tables import Views
from angularkd.errors import InputError
from angularkd.training.build import build_training
from angularkd.types import Batch

SIZE = (16, 12)


def write_photographs(folder: Path, count: int, channel: int = 0) -> list[Path]:
    """JPEGs of unequal sizes, smooth as photographs are; one channel is brighter than the others."""
    generator = np.random.default_rng(len(folder.name))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        colours = generator.integers(0, 128, (5, 5, 3), dtype=np.uint8)
        colours[..., channel] += 127
        small = Image.fromarray(colours)
        height, width = generator.integers(20, 90, 2)
        small.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg", quality=95)
        paths.append(folder / f"{number:03}.jpg")
    return paths


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    paths = write_photographs(tmp_path_factory.mktemp("images"), 41)
    return whole(FileStore(paths), [row % 5 for row in range(41)]).select(np.arange(40, 0, -1))


def training(split: Split, ops: tuple[str, ...] = ("resized_crop", "flip"), **options: object) -> StreamingLoader:
    settings = {"seed": 1, "shuffle": True, "drop_last": False, "batch_size": 8} | options
    return StreamingLoader(split, Views(ops, len(split), SIZE, seed=1), **settings)


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
        and torch.equal(first.indices, second.indices)
        and first.view == second.view
    )


def all_same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) > 0 and all(map(same, first, second))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it became true in time: longer than any process here takes to end on a busy machine."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def no_processes() -> bool:
    return not multiprocessing.active_children()


@pytest.fixture(autouse=True)
def _no_process_is_left_behind():
    yield
    if not no_processes():
        gc.collect()
    assert wait_until(no_processes)


@pytest.mark.parametrize("ops", [("crop", "flip"), ("resized_crop", "flip", "trivial_augment", "erase")])
def test_images_do_not_depend_on_the_number_of_workers(split, ops) -> None:
    here, one, two = (training(split, ops, workers=workers) for workers in (0, 1, 2))
    for epoch in (0, 3):
        expected = list(here.epoch(epoch))
        assert all_same(list(one.epoch(epoch)), expected)
        assert all_same(list(two.epoch(epoch)), expected)
    assert expected[0].images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("ops", [(), ("flip",), ("crop", "flip"), ("crop", "flip", "rand_augment", "erase")])
def test_without_a_box_batches_are_those_of_the_resident_loader(split, ops) -> None:
    stream = training(split, ops, workers=0)
    resident = ResidentLoader(
        load_resident(split, SIZE), stream.views, 8, seed=1, shuffle=True, drop_last=False, device="cpu"
    )
    assert len(stream) == len(resident) == 5
    assert stream.global_batch_size == resident.global_batch_size == 8
    for epoch in (0, 5):
        assert all_same(list(stream.epoch(epoch)), list(resident.epoch(epoch)))


def test_a_box_shows_what_the_resident_loader_shows_but_sharper(split) -> None:
    stream = training(split, ("resized_crop", "flip"), workers=0)
    resident = ResidentLoader(load_resident(split, SIZE), stream.views, 8, seed=1, shuffle=True, drop_last=False)
    for mine, other in zip(stream.epoch(2), resident.epoch(2), strict=True):
        assert torch.equal(mine.indices, other.indices) and torch.equal(mine.labels, other.labels)
        difference = (mine.images - other.images).abs().mean()
        assert 0 < difference < 0.02
        assert (mine.images - other.images.flip(3)).abs().mean() > 4 * difference


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_go_on_in_its_middle(split, workers) -> None:
    loader = training(split, workers=workers)
    expected = list(loader.epoch(2))
    assert all_same(list(loader.epoch(2, first_batch=3)), expected[3:])
    assert list(loader.epoch(2, first_batch=5)) == []


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_shows_each_image_once_in_order(split, world_size) -> None:
    options = {"world_size": world_size}
    streams = [evaluation_stream(split, SIZE, 8, rank=rank, workers=0, **options) for rank in range(world_size)]
    residents = [evaluation_loader(load_resident(split, SIZE), 8, rank=rank, **options) for rank in range(world_size)]
    seen: list[int] = []
    for stream, resident in zip(streams, residents, strict=True):
        batches = list(stream.epoch(0))
        assert all_same(batches, list(resident.epoch(0)))
        rows = torch.cat([batch.indices for batch in batches]).tolist()
        assert rows == sorted(rows)
        seen += rows
    assert sorted(seen) == list(range(40))


def test_two_ranks_see_together_what_one_sees(split) -> None:
    one = training(split, workers=0).epoch(1)
    two = [training(split, batch_size=4, rank=rank, world_size=2, workers=0).epoch(1) for rank in range(2)]
    for whole_batch, first, second in zip(one, *two, strict=True):
        assert torch.equal(whole_batch.images[0::2], first.images)
        assert torch.equal(whole_batch.images[1::2], second.images)


def test_two_epochs_may_be_under_way_at_once(split) -> None:
    loader, here = training(split, workers=2), training(split, workers=0)
    pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    assert all_same([first for first, _ in pairs], list(here.epoch(0)))
    assert all_same([second for _, second in pairs], list(here.epoch(1)))


@pytest.mark.parametrize("workers", [0, 2])
def test_random_numbers_of_others_are_left_alone(split, workers) -> None:
    before = torch.get_rng_state()
    list(training(split, workers=workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_spawned_processes_give_the_same(split) -> None:
    spawned = training(split, workers=1, start_method="spawn")
    assert all_same(list(spawned.epoch(4)), list(training(split, workers=0).epoch(4)))


def test_pinning_happens_beside_the_decoding(split, monkeypatch) -> None:
    loader = training(split, workers=2)
    loader._pinning = ThreadPoolExecutor(1)  # as on a CUDA device
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda pixels: pinned.append(threading.get_ident()) or pixels)
    assert all_same(list(loader.epoch(0)), list(training(split, workers=0).epoch(0)))
    assert len(pinned) == 5
    assert threading.get_ident() not in pinned


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_shows_the_same_images(split) -> None:
    here, there = (training(split, workers=2, device=device) for device in ("cpu", "cuda"))
    for expected, found in zip(here.epoch(1), there.epoch(1), strict=True):
        assert found.images.is_cuda and found.labels.is_cuda and found.indices.is_cuda
        assert torch.equal(found.images.cpu(), expected.images)


def process_ids(loader: StreamingLoader) -> set[int]:
    return {process.pid for process in loader._pool._processes.values()}


def test_processes_live_as_long_as_the_loader(split) -> None:
    loader = training(split, workers=2)
    assert loader._pool is None
    list(loader.epoch(0))
    first = process_ids(loader)
    list(loader.epoch(1))
    assert process_ids(loader) == first and len(first) == 2
    del loader
    assert wait_until(no_processes)


@dataclass(frozen=True)
class SlowStore:
    """Takes a while for every image."""

    seconds: float
    count: int

    def __len__(self) -> int:
        return self.count

    def image(self, row: int) -> np.ndarray:
        time.sleep(self.seconds)
        return np.full((*SIZE, 3), row % 256, dtype=np.uint8)

    def size(self, row: int) -> tuple[int, int]:
        return SIZE

    def name(self, row: int) -> str:
        return f"slow {row}"


def test_a_dropped_epoch_and_loader_leave_no_process_and_no_work() -> None:
    slow = whole(SlowStore(0.05, 4000), [0] * 4000)
    loader = StreamingLoader(slow, Views((), 4000, SIZE), 1, seed=0, shuffle=False, drop_last=False, workers=2)
    batches = loader.epoch(0)
    assert no_processes()  # nothing was asked for yet
    next(batches)
    batch_of_50_seconds = loader._pool.submit(streaming._read_in_worker, streaming.Request(np.arange(1000), None))
    del batches
    assert wait_until(batch_of_50_seconds.running)
    del loader
    assert wait_until(no_processes)


def test_an_exception_of_the_caller_leaves_no_process(split) -> None:
    def use() -> None:
        for _ in training(split, workers=2).epoch(0):
            raise KeyError("of the caller")

    with pytest.raises(KeyError):
        use()
    assert wait_until(no_processes)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_image_that_cannot_be_decoded_is_named_in_one_line(tmp_path, workers) -> None:
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


def test_a_killed_process_gives_one_line_and_the_next_epoch_new_ones(split) -> None:
    slow = whole(SlowStore(0.01, 400), [0] * 400)
    loader = training(slow, ("flip",), batch_size=10, workers=2)
    batches = loader.epoch(0)
    next(batches)
    os.kill(next(iter(process_ids(loader))), signal.SIGKILL)
    with pytest.raises(InputError, match=r"one of the 2 processes that decode images was killed.*--workers") as refusal:
        list(batches)
    assert "\n" not in str(refusal.value)
    assert next(loader.epoch(1)).view == 1


def start_workers_and_be_killed(split: Split, pids: Connection) -> None:
    loaders = [evaluation_stream(split, SIZE, 8, workers=2) for _ in range(2)]
    for loader in loaders:
        next(loader.epoch(0))
        pids.send(process_ids(loader))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starts from this process's memory")
def test_processes_end_with_a_main_process_that_is_killed(split) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    main = multiprocessing.get_context("fork").Process(target=start_workers_and_be_killed, args=(split, sender))
    main.start()
    workers = receiver.recv() | receiver.recv()
    main.join()
    assert main.exitcode == -signal.SIGKILL
    assert len(workers) == 4
    ended = wait_until(lambda: not any(map(_is_running, workers)))
    for pid in filter(_is_running, workers):
        os.kill(pid, signal.SIGKILL)
    assert ended


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to world_size - 1 = 1, got 2"),
        ({"workers": -1}, "number of workers must be at least 0, got -1"),
        ({"views": Views(("flip",), 9, SIZE)}, "views of 9 images do not fit 40 images"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(split, options, message) -> None:
    settings = {"views": Views(("flip",), 40, SIZE), "batch_size": 4, "seed": 0, "shuffle": True, "drop_last": False}
    with pytest.raises(InputError) as refusal:
        StreamingLoader(split, **(settings | options))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_statistics_of_all_images_are_exact(split, monkeypatch) -> None:
    monkeypatch.setattr(streaming, "BYTES_AT_ONCE", 7 * SIZE[0] * SIZE[1] * 3)
    exact = channel_stats(load_resident(split, SIZE))
    assert np.allclose(sampled_channel_stats(split, SIZE), exact, rtol=1e-12)


def test_statistics_of_a_sample_are_of_images_spread_evenly() -> None:
    pixels = np.repeat(np.arange(100, dtype=np.uint8), 12).reshape(100, 2, 2, 3)
    mean, std = sampled_channel_stats(whole(ArrayStore("a", pixels), [0] * 100), (2, 2), images=10)
    assert mean == pytest.approx([np.arange(0, 100, 10).mean() / 255] * 3)
    assert std == pytest.approx([np.arange(0, 100, 10).std() / 255] * 3)


def test_what_fits_memory(monkeypatch) -> None:
    monkeypatch.setattr(streaming, "free_memory_bytes", lambda: 10_000)
    assert fits_memory(20, (10, 10))  # 60 % of what is free
    assert not fits_memory(21, (10, 10))
    monkeypatch.setattr(streaming, "free_memory_bytes", lambda: None)
    assert fits_memory(10**9, (10, 10))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    for channel, name in enumerate(("a", "bb", "ccc")):
        write_photographs(root / name, 30, channel)
    return root


def options(data: Path, **more: object) -> dict:
    base = {"data": str(data), "image_size": 16, "batch_size": 16, "epochs": 1, "device": "cpu", "augment": ("crop",)}
    return base | more


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student.safetensors")


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_distillation_ends_with_the_same_weights_whoever_decodes(photographs, tmp_path) -> None:
    train = options(photographs, model="cifar/resnet8", epochs=3, schedule="onecycle")
    teacher = angularkd.train(**train, out=str(tmp_path / "teacher")).folder
    distill = options(photographs, teacher=str(teacher), student="cifar/resnet8", loss={"ce": 1, "amd": 10})
    distill["augment"] = ("resized_crop", "flip")
    runs = {
        workers: angularkd.distill(**distill, loader="workers", workers=workers, out=str(tmp_path / f"{workers}"))
        for workers in (0, 2)
    }
    assert equal(runs[0].folder, runs[2].folder)
    assert runs[0].results["metrics"] == runs[2].results["metrics"]
    notes = json.loads((runs[2].folder / "plan.json").read_text())["notes"]
    expected = (
        "train, val, test: images are decoded as they are needed, by 2 worker processes, as --loader workers asks"
    )
    assert expected in notes


def test_without_boxes_the_loaders_end_with_the_same_weights(photographs, tmp_path) -> None:
    train = options(photographs, model="cifar/resnet8", normalization="half")
    runs = [
        angularkd.train(**train, loader=loader, workers=0, out=str(tmp_path / loader))
        for loader in ("resident", "workers")
    ]
    assert equal(*(run.folder for run in runs))
    assert runs[0].results["metrics"] == runs[1].results["metrics"]


def build(data: Path, **more: object):
    return build_training(TrainConfig.from_options(**options(data, model="cifar/resnet8", **more)))


def test_auto_is_resident_where_that_fits_and_says_so_where_not(photographs, monkeypatch) -> None:
    job = build(photographs)
    assert job.config.loader == "resident"
    assert {type(loader) for loader in (job.batches, job.validation, job.test)} == {ResidentLoader}

    free = 30 * 16 * 16 * 3 / 0.6  # of 90 images, 9 each are for validation and test
    for module in (streaming, resident_module):
        monkeypatch.setattr(module, "free_memory_bytes", lambda: free)
    monkeypatch.setattr(streaming, "BYTES_AT_ONCE", 1)
    job = build(photographs, workers=0)
    assert job.config.loader == "workers"
    assert isinstance(job.batches, StreamingLoader)
    assert {type(loader) for loader in (job.validation, job.test)} == {ResidentLoader}
    assert job.data.dataset.notes[-1] == (
        "train: images are decoded as they are needed, by the run's own process, since they do not fit into memory"
    )
    assert next(job.batches.epoch(0)).images.shape == (16, 3, 16, 16)
    with pytest.raises(InputError, match="images of 16 x 16 need"):
        build(photographs, loader="resident")


def test_statistics_are_taken_only_where_a_model_needs_them(photographs, monkeypatch) -> None:
    own = build(photographs, loader="workers", workers=0).student.preprocessing
    assert own.source == "the training images' own"
    assert own.mean == pytest.approx(build(photographs, loader="resident").student.preprocessing.mean)
    monkeypatch.setattr(streaming, "load_resident", None)
    assert build(photographs, loader="workers", normalization="half").student.preprocessing.mean == (0.5, 0.5, 0.5)
