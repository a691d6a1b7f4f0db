"""Batches decoded as they are needed, by worker processes: for images that do not fit into memory all at once.

A worker gets the rows of a batch and their boxes, and gives back pixels [batch, height, width, 3]: `scaled.show` says
which. All that is random was drawn before, in the table of the view, and what remains to be done (flips, crops, colours)
is done for the whole batch on the device, by the same `Views.apply` as for resident images. So neither the number of
workers nor where an epoch is taken up changes an image.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawValue
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from angularkd.data.in_memory import MEMORY_SHARE, channel_stats, cores, load_resident
from angularkd.data.loaders.order import EpochOrder
from angularkd.data.scaled import show
from angularkd.data.splits import Split, Store
from angularkd.data.views.tables import Views, ViewTable, identity_views
from angularkd.errors import InputError
from angularkd.system.memory import free_memory_bytes
from angularkd.types import Batch

BATCHES_AHEAD = 2
"""Batches a worker that are being decoded, or wait decoded, while another is used."""
STATISTICS_IMAGES = 10_000
BYTES_AT_ONCE = 2**28

Pixels = UInt8[Tensor, "batch height width 3"]


class StreamingLoader:
    """The batches of an epoch, decoded by processes meanwhile; otherwise what `ResidentLoader` is.

    Every image is brought to `views.image_size`. Without resized_crop, images and order are those of `ResidentLoader`, to
    the bit; the box of a resized_crop is read from the original (`angularkd.data.scaled`). The processes start with the
    first epoch and live as long as the loader; several epochs may be under way at once.

    split: where images are kept; it must pickle where processes are spawned and not forked (Windows, macOS).
    batch_size, seed, shuffle, drop_last, rank, world_size: as in `EpochOrder`.
    device: images are pinned and copied without waiting where it is a CUDA GPU.
    workers: processes; 0 decodes in the calling one, when a batch is asked for. None: as many as there are cores.
    start_method: of processes; None for Python's default.

    Raises InputError when numbers are out of range or do not fit together; and in an epoch when an image cannot be
    decoded, as `load_resident` does, or a process was killed.
    """

    def __init__(
        self,
        split: Split,
        views: Views,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        workers: int | None = None,
        start_method: str | None = None,
    ) -> None:
        self.order = EpochOrder(len(split), batch_size, seed, shuffle, drop_last, rank, world_size)
        if views.num_samples != len(split):
            raise InputError(
                f"views of {views.num_samples} images do not fit {len(split)} images; build them for this split."
            )
        if workers is not None and workers < 0:
            raise InputError(f"the number of workers must be at least 0, got {workers}.")
        self.views = views
        self.device = torch.device(device)
        self.workers = cores() if workers is None else workers
        self.start_method = start_method
        self._labels = torch.from_numpy(split.labels.copy()).to(self.device)
        self._reader = Reader(split.store, split.rows, views.image_size)
        self._views_without_box = replace(views, ops=tuple(op for op in views.ops if op != "resized_crop"))
        self._pool: ProcessPoolExecutor | None = None
        self._pinning = ThreadPoolExecutor(1) if self.device.type == "cuda" else None

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch over all ranks."""
        return self.order.global_batch_size

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        return len(self.order)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, or those from `first_batch` on, for a run that goes on in the middle of one."""
        view = self.views.view_of(epoch)
        columns = dict(self.views.table(view).columns)
        box = columns.pop("box", None)
        table = ViewTable(columns).to(self.device)
        shares = self.order.batches(epoch, first_batch)
        requests = (Request(share, None if box is None else box.numpy()[share]) for share in shares)
        for rows, pixels in self._decoded(requests):
            indices = torch.from_numpy(rows)
            on_device = indices.to(self.device, non_blocking=True)
            images = self._views_without_box.apply(pixels.to(self.device, non_blocking=True), table.rows(on_device))
            yield Batch(images, self._labels.index_select(0, on_device), indices, view)

    def _decoded(self, requests: Iterator[Request]) -> Iterator[tuple[Int64[np.ndarray, " batch"], Pixels]]:
        """The rows and pixels of each request, in order."""
        if self.workers == 0:
            yield from ((request.rows, self._reader.read(request)) for request in requests)
            return
        pool = self._running_pool()
        ahead: deque[tuple[Int64[np.ndarray, " batch"], Future[Pixels]]] = deque()
        try:
            for request in requests:
                ahead.append((request.rows, self._submit(pool, request)))
                if len(ahead) > BATCHES_AHEAD * self.workers:
                    rows, pixels = ahead.popleft()
                    yield rows, pixels.result()
            while ahead:
                rows, pixels = ahead.popleft()
                yield rows, pixels.result()
        except BrokenProcessPool:
            raise InputError(
                f"one of the {self.workers} processes that decode images was killed, as systems do when memory (or shared "
                "memory, /dev/shm) runs out: give fewer --workers or a smaller --batch-size."
            ) from None
        finally:
            for _, pixels in ahead:
                pixels.cancel()

    def _submit(self, pool: ProcessPoolExecutor, request: Request) -> Future[Pixels]:
        decoded = pool.submit(_read_in_worker, request)
        return decoded if self._pinning is None else self._pinning.submit(_pinned, decoded)

    def _running_pool(self) -> ProcessPoolExecutor:
        """The processes, started where there are none, or where one was killed since."""
        try:
            if self._pool is not None:
                self._pool.submit(os.getpid)
                return self._pool
        except BrokenProcessPool:
            pass
        context = multiprocessing.get_context(self.start_method)
        stopped = RawValue(c_bool, False)
        self._pool = ProcessPoolExecutor(self.workers, context, _begin_worker, (self._reader, stopped))
        weakref.finalize(self, _end_pool, self._pool, stopped)
        return self._pool


def evaluation_stream(
    split: Split,
    image_size: tuple[int, int],
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
) -> StreamingLoader:
    """Every image once, fitted to `image_size`, in order."""
    return StreamingLoader(
        split,
        identity_views(len(split), image_size),
        batch_size,
        seed=0,
        shuffle=False,
        drop_last=False,
        device=device,
        rank=rank,
        world_size=world_size,
        workers=workers,
    )


def fits_memory(images: int, image_size: tuple[int, int], device: torch.device | str = "cpu") -> bool:
    """Whether so many resident images take at most MEMORY_SHARE of the free memory, of the machine and of a CUDA GPU."""
    free = [free_memory_bytes()]
    if torch.device(device).type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    needed = images * math.prod(image_size) * 3
    return all(known is None or needed <= MEMORY_SHARE * known for known in free)


def sampled_channel_stats(
    split: Split, image_size: tuple[int, int], images: int = STATISTICS_IMAGES
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """`channel_stats` of at most so many images, evenly spread over the split: exact where it has no more.

    Of the 10,000 the mean of all pixels is known to about 1/100 of the deviation between the means of single images.
    """
    count = min(images, len(split))
    rows = np.arange(count, dtype=np.int64) * len(split) // count
    at_once = max(1, BYTES_AT_ONCE // (math.prod(image_size) * 3))
    weights, means, squares = [], [], []
    for start in range(0, count, at_once):
        part = split.select(rows[start : start + at_once])
        mean, std = (np.array(values) for values in channel_stats(load_resident(part, image_size)))
        weights.append(len(part))
        means.append(mean)
        squares.append(std**2 + mean**2)
    mean = np.average(means, axis=0, weights=weights)
    std = np.sqrt(np.maximum(np.average(squares, axis=0, weights=weights) - mean**2, 0.0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


class Request(NamedTuple):
    """A batch to decode: rows of the split, and the box of each in the fitted image where there are boxes."""

    rows: Int64[np.ndarray, " batch"]
    box: Int[np.ndarray, "batch 4"] | None


@dataclass(frozen=True, eq=False)
class Reader:
    """What a worker needs to decode the batches of a split; pickled where processes are spawned."""

    store: Store
    store_rows: Int64[np.ndarray, " samples"]
    image_size: tuple[int, int]

    def read(self, request: Request, stopped: c_bool | None = None) -> Pixels:
        """The pixels of a batch. `stopped` is looked at before each image: whoever asked may not want it any more."""
        pixels = np.empty((len(request.rows), *self.image_size, 3), dtype=np.uint8)
        for place, row in enumerate(request.rows):
            if stopped is not None and stopped.value:
                raise InterruptedError("the loader is gone")
            box = None if request.box is None else request.box[place]
            pixels[place] = show(self.store, int(self.store_rows[row]), self.image_size, box)
        return torch.from_numpy(pixels)


_in_worker: tuple[Reader, c_bool] | None = None


def _begin_worker(reader: Reader, stopped: c_bool) -> None:
    global _in_worker
    _in_worker = (reader, stopped)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, without a traceback beside that of the main process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A main process that is killed cannot tell its workers to end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_in_worker(request: Request) -> Pixels:
    assert _in_worker is not None
    reader, stopped = _in_worker
    return reader.read(request, stopped)


def _pinned(decoded: Future[Pixels]) -> Pixels:
    return decoded.result().pin_memory()


def _end_pool(pool: ProcessPoolExecutor, stopped: c_bool) -> None:
    """Without waiting: this may run in any thread, the pool's own among them, whenever Python collects garbage."""
    stopped.value = True
    pool.shutdown(wait=False, cancel_futures=True)
