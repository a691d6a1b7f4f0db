"""Free memory, and memory that is kept rather than given back: the system clears no page twice."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from angularkd import memory
from angularkd.config.commands import TrainConfig
from angularkd.system.memory import SETTINGS, _group_free_bytes, free_memory_bytes, keep_freed_memory, use_huge_pages
from angularkd.training import build

of_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc alone"
)

COUNT_FAULTS = """
import resource
import torch
from angularkd.system.memory import keep_freed_memory

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


def test_a_run_on_the_cpu_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(build, "keep_freed_memory", lambda: calls.append(True))
    build.build_training(TrainConfig.from_options(data="digits", model="cifar/resnet8", image_size=8, device="cpu"))
    assert calls == [True]


@pytest.mark.parametrize("name", SETTINGS)
def test_who_has_decided_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
    assert use_huge_pages() == 0


HUGE_PAGES = """
import torch
from angularkd.system.memory import keep_freed_memory, use_huge_pages
assert keep_freed_memory()
in_huge_pages = lambda: sum(
    int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")
)
kept, freed = torch.arange(2**25), torch.ones(2**24)  # 256 and 64 MiB
freed = None
before, asked = in_huge_pages(), use_huge_pages()
assert torch.equal(kept, torch.arange(2**25))
print(asked, in_huge_pages() - before)
"""


def huge_pages_can_be_asked_for() -> bool:
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not sys.platform.startswith("linux") or not switch.exists() or "[never]" in switch.read_text():
        return False
    return tuple(map(int, platform.release().split(".")[:2])) >= (6, 1)


@of_glibc
@pytest.mark.skipif(not huge_pages_can_be_asked_for(), reason="of Linux 6.1 and newer")
def test_the_heap_is_held_in_huge_pages() -> None:
    ran = subprocess.run([sys.executable, "-c", HUGE_PAGES], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    asked, gained = map(int, ran.stdout.split())
    assert asked > 300 * 2**20 and gained > 64 * 2**10  # bytes; KiB


def test_where_the_system_wants_no_huge_pages_none_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_no_huge_pages", lambda: True)
    assert use_huge_pages() == 0


GIVE_BACK = """
import torch
from angularkd.system.memory import free_memory_bytes, keep_freed_memory
assert keep_freed_memory()
tensors = [torch.ones(2**18) for _ in range(500)]  # 500 MiB
wanted = tensors.pop()
del tensors
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
free_memory_bytes()
print(before - resident())
"""


@of_glibc
def test_what_is_kept_counts_as_free() -> None:
    ran = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 400 * 2**20


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
