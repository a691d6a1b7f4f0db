"""Free memory, and memory that is kept rather than given back: the system clears no page twice."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from angularkd.config import TrainConfig
from angularkd.memory import SETTINGS, _group_free_bytes, free_memory_bytes, keep_freed_memory
from angularkd.training import build

of_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc alone"
)

COUNT_FAULTS = """
import resource
import torch
from angularkd.memory import keep_freed_memory

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


GIVE_BACK = """
import torch
from angularkd.memory import free_memory_bytes, keep_freed_memory
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
