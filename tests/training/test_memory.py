"""Memory that is kept rather than given back: the system clears no page twice."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from angularkd.config import TrainConfig
from angularkd.training import build

COUNT_FAULTS = """
import resource
import torch
from angularkd.training.memory import keep_freed_memory

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


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc alone"
)
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
