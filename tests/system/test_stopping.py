"""Requests to stop: at once or when they are asked for, by signals where the command line wants it, and never a handler left behind."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from angularkd.system.stopping import SIGNALS, Stop, Stopped, stopped_by_signals
from killed_runs import in_process


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_a_request_is_answered_at_once_or_waits() -> None:
    stop = Stop()
    with pytest.raises(Stopped, match="stopped by SIGTERM") as stopped:
        stop.request(signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM and not stopped.value.saved
    stop = Stop()
    with stop.deferred():
        stop.request(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with stop.deferred(False), pytest.raises(Stopped):
            stop.request(signal.SIGTERM)
        stop.request(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop.request(signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_asks_to_stop_and_its_handler_is_put_back(number, monkeypatch) -> None:
    usual = signal.signal(number, signal.default_int_handler)
    try:
        before = handlers()
        with pytest.raises(Stopped) as stopped, stopped_by_signals():
            os.kill(os.getpid(), number)
        assert stopped.value.number == number
        assert handlers() == before
    finally:
        signal.signal(number, usual)


def test_what_is_ignored_stays_ignored() -> None:
    usual = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopped_by_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number is None
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_another_thread_changes_nothing() -> None:
    before, inside = handlers(), []

    def run() -> None:
        with stopped_by_signals():
            inside.extend(handlers())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked here, to be killed")
def test_a_second_signal_ends_the_process() -> None:
    assert in_process(_killed_twice).wait() == -signal.SIGTERM


def _killed_twice() -> None:
    with stopped_by_signals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
