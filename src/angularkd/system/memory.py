"""How much memory there is, and how a process on the CPU holds what it has while it trains."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of malloc.h."""
MADV_COLLAPSE = 25
"""Name of mman.h, Linux 6.1."""
HUGE_PAGE = 2**21
"""Bytes of a page that Linux can put in the place of 512 usual ones, on most processors."""
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
    if mallopt is None or _decided_otherwise():
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, -1)) and bool(mallopt(M_MMAP_MAX, 0))


def use_huge_pages() -> int:
    """Have Linux hold what is on this process's heap now, used or kept, in huge pages; the bytes that it was asked for.

    Of huge pages a processor's table of addresses holds as many as of usual ones, so a step through hundreds of megabytes finds
    its addresses there instead of looking them up. It costs a copy, once: a second or two for a gigabyte. Memory comes to the heap by
    `keep_freed_memory`, so that is to be called first, and then a step to be run. Where Linux is older than 6.1 or its
    transparent huge pages are set to `never`, and where one of SETTINGS is set, nothing changes.
    """
    madvise = _of_c_library("madvise")
    if madvise is None or _decided_otherwise() or _no_huge_pages():
        return 0
    asked = 0
    for start, end in _heap():
        first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
        if first < last:
            madvise(
                ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_COLLAPSE
            )  # refused for a part, it goes on with the rest
            asked += last - first
    return asked


def free_memory_bytes() -> int | None:
    """Memory that can still be allocated: the system's, or less where the control group (container) has a limit.

    What this process has freed and kept is given back first. None where the operating system does not say.
    """
    give_back = _of_c_library("malloc_trim")
    if give_back is not None:
        give_back(0)
    known = [value for value in (_system_free_bytes(), _group_free_bytes(Path("/sys/fs/cgroup"))) if value is not None]
    return min(known, default=None)


def _decided_otherwise() -> bool:
    return any(name in os.environ for name in SETTINGS)


def _no_huge_pages() -> bool:
    try:
        return "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return True


def _heap() -> Iterator[tuple[int, int]]:
    """Where the memory lies that the C library hands out: the parts of what `brk` has given this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.endswith("[heap]"):
            start, end = line.split()[0].split("-")
            yield int(start, 16), int(end, 16)


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
