"""How much memory there is, and how a process on the CPU holds what it has while it trains."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of malloc.h."""
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which somebody has decided otherwise."""


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, instead of giving it back to the system; whether it does.

    A step frees and asks again for its activations, hundreds of megabytes. Given back and fetched anew, every page of them is
    cleared by the system at its first touch, which can be a quarter of a small network's step. Kept, it is paid for once, and the
    process stays as large as it once was. Of glibc (`mallopt(3)`), for the whole process; elsewhere, beside another allocator, and
    where one of SETTINGS is set, nothing changes.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is None or any(name in os.environ for name in SETTINGS):
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, -1)) and bool(mallopt(M_MMAP_MAX, 0))


def free_memory_bytes() -> int | None:
    """Memory that can still be allocated: the system's, or less where the control group (container) has a limit.

    What this process has freed and kept is given back first. None where the operating system does not say.
    """
    give_back = _of_c_library("malloc_trim")
    if give_back is not None:
        give_back(0)
    known = [value for value in (_system_free_bytes(), _group_free_bytes(Path("/sys/fs/cgroup"))) if value is not None]
    return min(known, default=None)


def _system_free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group_free_bytes(group: Path) -> int | None:
    """Limit less use, where file cache that can be dropped does not count as used (control groups version 2)."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))


def _of_c_library(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
