"""How much memory there is, and what a command line may ask of its process's allocator before it trains on the CPU."""

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

_keeps_freed_memory = False


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h; `fordblks` counts the bytes that are free on the heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, instead of giving it back to the system.

    A step frees and asks again for its activations, hundreds of megabytes. Given back and fetched anew, every page of them is
    cleared by the system at its first touch, which can be a quarter of a small network's step. Where it stays, that is paid once, and the
    process stays as large as it once was. It concerns the whole process, so that only its owner may decide: the command line
    does. It is a matter of glibc (`mallopt(3)`); elsewhere, beside another allocator, and where one of SETTINGS is set, nothing changes.

    Returns:
        Whether freed memory stays with this process from now on.
    """
    global _keeps_freed_memory
    mallopt = _of_c_library("mallopt")
    if mallopt is None or any(name in os.environ for name in SETTINGS):
        return False
    _keeps_freed_memory = bool(mallopt(M_TRIM_THRESHOLD, -1)) and bool(mallopt(M_MMAP_MAX, 0))
    return _keeps_freed_memory


def use_huge_pages() -> int:
    """Have Linux hold what is on this process's heap now, used or free, in huge pages, where freed memory stays with it.

    A processor's table of addresses holds as many huge pages as usual ones, so a step through hundreds of megabytes finds
    its addresses there instead of looking them up. It costs a copy, once: a second or two for a gigabyte. Nothing changes unless
    `keep_freed_memory` was called in this process, and where Linux is older than 6.1 or its transparent huge pages are set to `never`.

    Returns:
        The bytes that Linux was asked for.
    """
    madvise = _of_c_library("madvise")
    if madvise is None or not _keeps_freed_memory or _no_huge_pages():
        return 0
    asked = 0
    for start, end in _heap():
        first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
        if first < last:
            # Linux may refuse a part, and goes on with the rest.
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_COLLAPSE)
            asked += last - first
    return asked


def free_memory_bytes() -> int | None:
    """Return how much memory can still be allocated: the system's, or less where the control group (container) has a limit.

    What this process has freed and keeps counts as free. None where the operating system does not say.
    """
    known = [value for value in (_system_free_bytes(), _group_free_bytes(Path("/sys/fs/cgroup"))) if value is not None]
    return min(known) + _free_on_heap_bytes() if known else None


def _free_on_heap_bytes() -> int:
    """Return the bytes that the C library holds for this process without using them, where it keeps what is freed."""
    mallinfo = _of_c_library("mallinfo2") if _keeps_freed_memory else None
    if mallinfo is None:
        return 0
    mallinfo.restype = _MallocInfo  # type: ignore[attr-defined]
    return int(mallinfo().fordblks)  # type: ignore[attr-defined]


def _no_huge_pages() -> bool:
    try:
        return "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return True


def _heap() -> Iterator[tuple[int, int]]:
    """Yield where the memory lies that the C library hands out: the parts of what `brk` has given this process."""
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
    """Return limit less use, where file cache that can be dropped does not count as used (control groups version 2)."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))


def _of_c_library(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
