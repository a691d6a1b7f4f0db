"""Locks between processes, which the operating system releases when a process ends, however it does."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there nobody is kept out
    fcntl = None  # type: ignore[assignment]


class Lock:
    """An exclusive lock, held by whoever has locked a file; the file is there while it is held.

    Args:
        file: the file; its folder must exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._held: weakref.finalize[[int, Path, int], Lock] | None = None

    @property
    def held(self) -> bool:
        """Return whether this one holds the lock."""
        return self._held is not None

    def acquire(self) -> bool:
        """Take the lock, and return whether it is held now: False where another process, or another part of this one, holds it."""
        while not self.held:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if not _locked(handle):
                os.close(handle)
                return False
            if _is(handle, self.file):
                self._held = weakref.finalize(self, _release, handle, self.file, os.getpid())
            else:  # the one who held it has just removed the file
                os.close(handle)
        return True

    def release(self) -> None:
        """Give the lock back, if it is held, and remove its file."""
        if self._held is not None:
            self._held()
            self._held = None


def _locked(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _release(handle: int, file: Path, owner: int) -> None:
    """Unlock and remove the file; in a process that was forked from the owner, leave both to the owner."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # forked workers have the handle, too
    os.close(handle)
