"""Stopping on request: what asks a long computation to end, at once or where it can be gone on with."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has the first two alone
)
"""What asks a command to stop: Ctrl-C, `kill`, a terminal that is closed, and what Slurm can send before it takes a machine away."""


class Stopped(BaseException):
    """Raised where a computation ends because it was asked to; like KeyboardInterrupt, it is no error.

    Args:
        number: of the signal that asked.
        saved: whether a checkpoint was written from which it goes on where it was.
    """

    def __init__(self, number: int, saved: bool = False) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.saved = saved


class Stop:
    """A request to stop, which raises `Stopped` at once, or inside of `deferred` waits until it is asked for.

    Attributes:
        number: of the signal that asked to stop, None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._defers = False

    def request(self, number: int) -> None:
        """Ask to stop, because of a signal.

        Raises:
            Stopped: unless the request is deferred.
        """
        self.number = number
        if not self._defers:
            raise Stopped(number)

    @contextmanager
    def deferred(self, defers: bool = True) -> Iterator[None]:
        """Let requests wait inside, where somebody asks for `number` now and then; or, with False, no longer wait."""
        before, self._defers = self._defers, defers
        try:
            yield
        finally:
            self._defers = before


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Yield a `Stop` that the signals of SIGNALS ask to stop inside; a second signal ends the process as it would without this.

    A signal that is ignored (by `nohup`, or in the background of a script) stays so. Outside of the main thread nothing is changed.
    """
    stop = Stop()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.request(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: one for number, one in before.items() if one not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield stop
    finally:
        for number, one in before.items():
            signal.signal(number, one)
