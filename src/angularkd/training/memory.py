"""How a process on the CPU holds its memory while it trains."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of malloc.h."""


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, instead of giving it back to the system; whether it can.

    A step frees and asks again for its activations, hundreds of megabytes. Given back and fetched anew, every page of them is
    cleared by the system at its first touch: a quarter and more of a small network's step. Kept, it is paid for once, and the
    process stays as large as it once was. Of glibc (`mallopt(3)`); elsewhere, and beside another allocator, nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, -1)) and bool(mallopt(M_MMAP_MAX, 0))
