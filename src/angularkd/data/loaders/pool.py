"""The worker pool: processes that decode batches, the same ones for every split of a data set.

It is torch's DataLoader, whose sampler is the batches to decode: each names its store, rows and boxes, so that one set of
processes serves training, validation and test in turn.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from angularkd.data.in_memory import cores
from angularkd.data.scaled import read_scaled
from angularkd.data.stores import Store
from angularkd.errors import InputError
from angularkd.system.stopping import SIGNALS

BATCHES_AHEAD = 2
"""Batches a worker that are being decoded, or wait decoded, while another is used."""

Pixels = UInt8[Tensor, "batch height width 3"]


class Request(NamedTuple):
    """A batch to decode: rows of a store, and the box of each in the fitted image where there are boxes.

    Attributes:
        store: The number of the store in the pool.
        rows: Rows of the store.
        image_size: (height, width) of the pixels.
        box: Top, left, height and width.
    """

    store: int
    rows: Int64[np.ndarray, " batch"]
    image_size: tuple[int, int]
    box: Int[np.ndarray, "batch 4"] | None


class WorkerPool:
    """Processes that decode the batches of several loaders, one epoch at a time.

    They start with the first epoch and live as long as the pool. An image does not depend on their number. They leave
    Ctrl-C to the calling process, and end when that one ends, however it does.

    Args:
        stores: Where the images are; they must pickle where processes are not forked (Windows, macOS).
        workers: The number of processes; 0 decodes in the calling one, when a batch is asked for. None takes as many as
            there are cores.
        pin_memory: Whether batches come in pinned memory, for a CUDA GPU.

    Raises:
        InputError: The number of workers is below 0.
    """

    def __init__(self, stores: Iterable[Store], workers: int | None = None, *, pin_memory: bool = False) -> None:
        if workers is not None and workers < 0:
            raise InputError(f"`workers` must be at least 0, got {workers}.")
        self.workers = cores() if workers is None else workers
        self.pin_memory = pin_memory
        self._stores = list({id(store): store for store in stores}.values())
        self._queue = _Requests()
        self._loader: DataLoader[Any] | None = None
        self._epochs = 0

    def number_of(self, store: Store) -> int:
        """Return the number by which requests name a store of the pool."""
        return next(number for number, one in enumerate(self._stores) if one is store)

    def read(self, requests: Iterable[Request]) -> Iterator[Pixels]:
        """Yield the pixels of each request, in order.

        Raises:
            InputError: An image cannot be decoded, or a process was killed.
            RuntimeError: Another epoch has begun since, and the processes decode for that one.
        """
        if self.workers == 0:
            yield from (decode(self._stores, request) for request in requests)
            return
        self._epochs += 1
        epoch, batches = self._epochs, self._begin(requests)
        complaint: InputError | None = None
        while complaint is None:
            if epoch != self._epochs:
                raise RuntimeError(
                    "this epoch cannot go on: another one has begun, for which the worker processes decode now. Finish or drop "
                    "an epoch before the next, or take workers=0"
                )
            try:
                pixels = next(batches, None)
            except RuntimeError as error:
                complaint, self._loader = self._complaint(error), None
            else:
                if pixels is None:
                    return
                if isinstance(pixels, InputError):
                    complaint = pixels
                else:
                    yield pixels
        try:
            raise complaint
        finally:
            del complaint, pixels, batches  # which the error's traceback would hold on to

    def _begin(self, requests: Iterable[Request]) -> Iterator[Pixels | InputError]:
        """Let the processes work on these requests; start them where there are none, or where one was killed since."""
        self._queue.requests = requests
        if self._loader is not None:
            try:
                return iter(self._loader)
            except RuntimeError as error:
                self._complaint(error)
        return self._start()

    def _start(self) -> Iterator[Any]:
        """Start the processes, and have them end with the pool at the latest, even in the middle of a batch."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more than there are cores
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # and is forked
            self._loader = DataLoader(
                _Decoder(self._stores),
                batch_size=None,
                sampler=self._queue,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                pin_memory=self.pin_memory,
                worker_init_fn=_ignore_interrupts,
                prefetch_factor=BATCHES_AHEAD,
                persistent_workers=True,
                generator=torch.Generator(),  # else it draws from the caller's random state
            )
            batches = _in_a_thread(self._loader.__iter__)
        weakref.finalize(self, _terminate, batches._workers, os.getpid())
        return batches

    def _complaint(self, error: RuntimeError) -> InputError:
        """Return what to say of the DataLoader's error for a process that was killed. Raises every other error as it is."""
        if not str(error).startswith(KILLED):
            raise error
        return InputError(
            f"one of the {self.workers} processes that decode images was killed, as systems do when memory (or shared "
            "memory, /dev/shm) runs out: give fewer `workers` or a smaller `batch_size`."
        )


KILLED = ("DataLoader worker (pid", "Pin memory thread exited")
"""How the DataLoader begins its messages about a process that is gone; those of an error in a process begin otherwise."""


def decode(stores: list[Store], request: Request) -> Pixels:
    """Decode one batch. Raises InputError when an image cannot be decoded."""
    pixels = np.empty((len(request.rows), *request.image_size, 3), dtype=np.uint8)
    store = stores[request.store]
    for place, row in enumerate(request.rows):
        box = None if request.box is None else request.box[place]
        pixels[place] = read_scaled(store, int(row), request.image_size, box)
    return torch.from_numpy(pixels)


class _Decoder(Dataset[Any]):
    """What the DataLoader takes batches from: it returns an InputError, which would lose its single line when raised there."""

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores

    def __getitem__(self, request: Request) -> Pixels | InputError:
        try:
            return decode(self.stores, request)
        except InputError as error:
            return error


class _Requests(Sampler[Request]):
    """The requests of the epoch that begins next."""

    def __init__(self) -> None:
        self.requests: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, and what else every process of a terminal or a job gets, to the calling process; it ends the others."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else signal.SIG_DFL)


def _in_a_thread(start: Callable[[], Any]) -> Any:
    """Start a DataLoader's processes from a thread of its own, and return its batches.

    From the main thread the DataLoader would put a handler for SIGCHLD into the calling process, which raises an error
    wherever that is when a process is killed. This way the error is raised where the next batch is taken.
    """
    found: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(start())
        except BaseException as error:  # raised again in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return found.pop()


def _terminate(processes: list[BaseProcess], owner: int) -> None:
    """End processes at once; the DataLoader asks them to, and waits seconds for those that do not hear it."""
    if os.getpid() == owner:  # and not a process that was forked from it
        for process in processes:
            process.terminate()
