"""The worker pool: one set of processes for all loaders, which end when they should, however that comes about."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from angularkd.data import Split, StreamingLoader, WorkerPool, evaluation_stream
from angularkd.data.loaders.pool import Request
from angularkd.data.splits import whole
from angularkd.data.stores import ArrayStore
from angularkd.errors import InputError

SIZE = (6, 5)

pytestmark = pytest.mark.usefixtures("leaves_no_process")


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


@pytest.fixture
def splits() -> list[Split]:
    return [whole(ArrayStore(f"part {part}", pixels(40, part)), [0] * 40) for part in range(3)]


def loaders(splits: list[Split], workers: int) -> list[StreamingLoader]:
    pool = WorkerPool([split.store for split in splits], workers)
    return [evaluation_stream(split, SIZE, 8, pool=pool) for split in splits]


def process_ids() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def images_of(batches) -> np.ndarray:
    return np.concatenate([(255 * batch.images).round().byte().permute(0, 2, 3, 1).numpy() for batch in batches])


def test_two_workers_are_two_processes_for_all_splits(splits) -> None:
    three = loaders(splits, 2)
    assert not process_ids()
    seen = set()
    for epoch in range(2):
        for part, loader in enumerate(three):
            assert np.array_equal(images_of(loader.epoch(epoch)), pixels(40, part))
            seen |= process_ids()
    assert len(seen) == 2


def test_processes_live_as_long_as_a_loader(splits, wait_until, no_processes) -> None:
    three = loaders(splits, 2)
    list(three[0].epoch(0))
    del three[0], three[0]
    assert len(process_ids()) == 2
    del three
    assert wait_until(no_processes)


def test_workers_0_starts_no_process_and_reads_when_asked(splits) -> None:
    loader = loaders(splits, 0)[1]
    batches = loader.epoch(0)
    next(batches)
    assert not process_ids()
    other = loader.epoch(0)
    assert torch.equal(next(other).indices, torch.arange(8)) and next(batches).indices[0] == 8


def test_an_epoch_that_another_one_has_followed_cannot_go_on(splits) -> None:
    train, val, _ = loaders(splits, 2)
    unfinished = train.epoch(0)
    next(unfinished)
    validation = val.epoch(0)
    first = next(validation)
    with pytest.raises(RuntimeError, match="another one has begun"):
        next(unfinished)
    assert np.array_equal(images_of([first, *validation]), pixels(40, 1))
    assert np.array_equal(images_of(train.epoch(1)), pixels(40, 0))


def test_an_epoch_may_begin_beside_the_last_batch_of_another(splits) -> None:
    train, val, _ = loaders(splits, 1)
    for number, _ in enumerate(train.epoch(0)):
        if number == len(train) - 1:
            assert len(list(val.epoch(0))) == 5
    assert number == 4


def test_an_abandoned_epoch_is_followed_by_a_whole_one(splits) -> None:
    train = loaders(splits, 2)[0]
    for _ in range(3):
        next(train.epoch(0))
    assert np.array_equal(images_of(train.epoch(1)), pixels(40, 0))


def test_no_handler_of_signals_is_left(splits) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)}
    list(loaders(splits, 1)[0].epoch(0))
    assert before == {number: signal.getsignal(number) for number in before}


def test_more_workers_than_cores_are_as_quiet(splits) -> None:
    assert len(list(loaders(splits, 5)[0].epoch(0))) == 5  # a warning is an error here


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


def slow(seconds: float, count: int) -> Split:
    return whole(SlowStore(seconds, count), [0] * count)


def test_a_dropped_epoch_and_loader_leave_no_process_and_no_work(wait_until, no_processes) -> None:
    split = slow(0.05, 4000)
    pool = WorkerPool([split.store], 1)
    first, of_50_seconds = (Request(0, np.arange(count), SIZE, None) for count in (1, 1000))
    batches = pool.read([first, of_50_seconds])
    assert no_processes()  # nothing was asked for yet
    next(batches)
    started = time.monotonic()
    del batches, pool
    assert wait_until(no_processes)
    assert time.monotonic() - started < 4  # the DataLoader alone waits for 5 seconds before it ends a busy process


def test_an_exception_of_the_caller_leaves_no_process(splits, wait_until, no_processes) -> None:
    def use() -> None:
        for _ in loaders(splits, 2)[0].epoch(0):
            raise KeyError("of the caller")

    with pytest.raises(KeyError):
        use()
    assert wait_until(no_processes)


def test_a_killed_process_gives_one_line_and_the_next_epoch_new_ones(wait_until) -> None:
    loader = loaders([slow(0.01, 400)], 2)[0]
    batches = loader.epoch(0)
    next(batches)
    first = process_ids()
    os.kill(min(first), signal.SIGKILL)
    with pytest.raises(
        InputError, match=r"one of the 2 processes that decode images was killed.*`workers`.*`batch_size`"
    ) as refusal:
        list(batches)
    assert "\n" not in str(refusal.value)
    assert wait_until(lambda: not first & process_ids())
    assert next(loader.epoch(1)).indices[0] == 0 and len(process_ids()) == 2


def test_a_process_killed_between_epochs_is_replaced(splits, wait_until) -> None:
    loader = loaders(splits, 2)[0]
    list(loader.epoch(0))
    killed = min(process_ids())
    os.kill(killed, signal.SIGKILL)
    assert wait_until(lambda: killed not in process_ids())
    assert np.array_equal(images_of(loader.epoch(1)), pixels(40))


class Broken(ArrayStore):
    """Has a fault of its own."""

    def image(self, row: int) -> np.ndarray:
        raise RuntimeError("a fault of the store")


def test_a_fault_in_a_process_is_no_killed_process() -> None:
    loader = loaders([whole(Broken("b", pixels(10)), [0] * 10)], 1)[0]
    with pytest.raises(RuntimeError, match="a fault of the store"):
        list(loader.epoch(0))


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from test_pool import loaders, pixels, process_ids, whole, ArrayStore

if __name__ == "__main__":
    pools = [loaders([whole(ArrayStore("one", pixels(40)), [0] * 40)], 2) for _ in range(2)]
    for one, in pools:
        next(one.epoch(0))
    print(*process_ids(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="a process is killed by a signal")
def test_processes_end_with_a_main_process_that_is_killed(tmp_path, wait_until) -> None:
    script = tmp_path / "main.py"
    script.write_text(KILLED.format(path=[str(Path(__file__).parent)]))
    main = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    workers = [int(pid) for pid in main.stdout.readline().split()]
    main.stdout.close()
    assert main.wait() == -signal.SIGKILL
    assert len(workers) == 4
    ended = wait_until(lambda: not any(map(is_running, workers)))
    for pid in filter(is_running, workers):
        os.kill(pid, signal.SIGKILL)
    assert ended


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


INTERRUPTED = """
import multiprocessing, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs come without
sys.path[:0] = {path!r}
from test_pool import loaders, slow

if __name__ == "__main__":
    loader = loaders([slow(0.02, 400)], 2)[0]
    def print_processes():
        print(*sorted(process.pid for process in multiprocessing.active_children()), flush=True)

    try:
        for number, _ in enumerate(loader.epoch(0)):
            if number == 1:
                print_processes()
    except KeyboardInterrupt:
        next(loader.epoch(1))
        print_processes()
        sys.exit(130)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group of processes")
def test_ctrl_c_is_the_calling_process_s_and_its_end_that_of_all_without_a_word(tmp_path, wait_until) -> None:
    script = tmp_path / "main.py"
    script.write_text(INTERRUPTED.format(path=[str(Path(__file__).parent)]))
    main = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert main.stdout is not None and main.stderr is not None
    workers = [int(pid) for pid in main.stdout.readline().split()]
    assert len(workers) == 2, main.stderr.read()
    os.killpg(main.pid, signal.SIGINT)  # as a terminal does
    after, words = main.communicate(timeout=60)
    assert (main.returncode, words) == (130, "")
    assert sorted(workers) == [int(pid) for pid in after.split()]
    assert wait_until(lambda: not any(map(is_running, workers)))


def test_a_number_below_zero_is_refused_in_one_line(splits) -> None:
    with pytest.raises(InputError, match=r"^`workers` must be at least 0, got -1\.$"):
        loaders(splits, -1)
