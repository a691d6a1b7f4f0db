"""Functions compiled for one shape: the compiler's cache on the disk answers with code for as many threads as there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
from torch._dynamo.utils import counters
from angularkd.system.compiling import CompiledForOneShape

torch.set_num_threads(int(sys.argv[1]))
compiled = CompiledForOneShape(lambda images: images.exp().sum(0).sum())
compiled(torch.rand(4000, 100, generator=torch.Generator().manual_seed(0)))
found = {**counters["inductor"], **counters["aot_autograd"]}
print(found.get("fxgraph_cache_hit", 0) + found.get("autograd_cache_hit", 0) > 0)
"""


def test_code_for_another_number_of_threads_is_not_taken_from_the_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    hits = []
    for threads in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, threads], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be compiled here: {done.stderr[-200:]}")
        hits.append(done.stdout.strip())
    assert hits == ["False", "False"]
