"""Free memory, and memory that is kept rather than given back: the system clears no page twice."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from angularkd.system import memory
from angularkd.system.memory import (
    HUGE_PAGE,
    MADV_COLLAPSE,
    SETTINGS,
    _group_free_bytes,
    free_memory_bytes,
    keep_freed_memory,
    use_huge_pages,
)

of_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc alone"
)

COUNT_FAULTS = """
import ctypes
import resource
import torch
from angularkd.system.memory import keep_freed_memory

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, whatever the machine's setting: a fault a page

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)  # 64 MiB, more than the C library keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_usual = page_faults()
assert keep_freed_memory()
for _ in range(4):
    page_faults()
print(as_usual, page_faults())
"""


@of_glibc
def test_memory_that_was_freed_is_not_cleared_again() -> None:
    ran = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    as_usual, kept = map(int, ran.stdout.split())
    assert kept < as_usual / 10


@pytest.mark.parametrize("name", SETTINGS)
def test_who_has_decided_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(memory, "_keeps_freed_memory", False)
    assert not keep_freed_memory()
    assert use_huge_pages() == 0


@pytest.fixture
def advice(monkeypatch) -> list[tuple[int, int, int]]:
    """What is asked of the system by madvise, as (address, bytes, advice); nothing of it is done."""
    asked: list[tuple[int, int, int]] = []

    def madvise(start: ctypes.c_void_p, size: ctypes.c_size_t, what: int) -> int:
        asked.append((start.value, size.value, what))
        return -1  # as where Linux refuses, after which the other parts are still asked for

    monkeypatch.setattr(memory, "_of_c_library", {"madvise": madvise}.get)
    monkeypatch.setattr(memory, "_no_huge_pages", lambda: False)
    monkeypatch.setattr(memory, "_keeps_freed_memory", True)
    return asked


def test_the_whole_huge_pages_of_the_heap_are_asked_for(monkeypatch, advice) -> None:
    parts = [(5, 3 * HUGE_PAGE + 7), (10 * HUGE_PAGE + 1, 12 * HUGE_PAGE - 1), (20 * HUGE_PAGE, 21 * HUGE_PAGE)]
    monkeypatch.setattr(memory, "_heap", lambda: iter(parts))
    assert use_huge_pages() == 3 * HUGE_PAGE
    assert advice == [
        (HUGE_PAGE, 2 * HUGE_PAGE, MADV_COLLAPSE),
        (20 * HUGE_PAGE, HUGE_PAGE, MADV_COLLAPSE),  # the second holds no whole one
    ]


@pytest.mark.parametrize("why", ["the system wants none", "freed memory is not kept"])
def test_where_they_are_of_no_use_no_huge_pages_are_asked_for(monkeypatch, advice, why) -> None:
    monkeypatch.setattr(memory, "_heap", lambda: iter([(0, 4 * HUGE_PAGE)]))
    if why == "the system wants none":
        monkeypatch.setattr(memory, "_no_huge_pages", lambda: True)
    else:
        monkeypatch.setattr(memory, "_keeps_freed_memory", False)
    assert use_huge_pages() == 0 and advice == []


HUGE_PAGES = """
import torch
from angularkd.system import memory

assert memory.keep_freed_memory()
used, freed = torch.arange(2**25), torch.ones(2**24)  # 256 and 64 MiB
freed = None
memory._no_huge_pages = lambda: False
of_c_library, ranges = memory._of_c_library, []

def recorded(name):
    function = of_c_library(name)
    if name != "madvise":
        return function
    return lambda start, size, what: ranges.append((start.value, start.value + size.value)) or function(start, size, what)

memory._of_c_library = recorded
asked = memory.use_huge_pages()
assert torch.equal(used, torch.arange(2**25)), "contents are left alone"
assert asked == sum(end - start for start, end in ranges)
middle = used.data_ptr() + used.nbytes // 2
print(any(start <= middle < end for start, end in ranges))
"""


@of_glibc
def test_what_the_process_uses_is_in_the_range_that_is_asked_for_and_left_alone() -> None:
    ran = subprocess.run([sys.executable, "-c", HUGE_PAGES], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "True\n"


KEPT = """
import torch
from angularkd.system import memory

memory._system_free_bytes = lambda: 2**40  # else it follows what other processes do
memory._group_free_bytes = lambda group: None

def gained_by_freeing():
    tensors = [torch.ones(2**18) for _ in range(500)]  # 500 MiB
    before = memory.free_memory_bytes()
    top = tensors.pop()
    tensors.clear()
    return memory.free_memory_bytes() - before

given_back = gained_by_freeing()
assert memory.free_memory_bytes() == 2**40
assert memory.keep_freed_memory()
print(given_back, gained_by_freeing())
"""


@of_glibc
def test_what_is_kept_counts_as_free() -> None:
    ran = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    given_back, kept = map(int, ran.stdout.split())
    assert given_back == 0, "which the system itself counts as free"
    assert 490 * 2**20 < kept < 510 * 2**20


def test_free_memory(tmp_path: Path) -> None:
    free = free_memory_bytes()
    assert free is None or 0 < free < 2**50
    assert _group_free_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 250\n")
    assert _group_free_bytes(tmp_path) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert _group_free_bytes(tmp_path) is None
