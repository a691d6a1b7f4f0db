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


_open_handles: set[int] = set()
"""Of the locks that this process holds. Processes forked from it close them, else they would hold the locks beyond its death."""


def _close_inherited() -> None:
    while _open_handles:
        with contextlib.suppress(OSError):
            os.close(_open_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


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

    @property
    def in_place(self) -> bool:
        """Return whether it is held, and its file is where it was made."""
        return self._held is not None and self._held.alive and _is(self._handle, self.file)

    def acquire(self) -> bool:
        """Take the lock, and return whether it is held now: False where another process, or another part of this one, holds it."""
        while not self.held:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if not _locked(handle):
                os.close(handle)
                return False
            if _is(handle, self.file):
                self._held = weakref.finalize(self, _release, handle, self.file, os.getpid())
                self._handle = handle
                _open_handles.add(handle)
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
    """Unlock and remove the file; a process that was forked from the owner leaves both to the owner."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
    _open_handles.discard(handle)
    os.close(handle)
