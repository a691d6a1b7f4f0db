"""Times of calls: medians with their spread, in turn."""

from __future__ import annotations

import pytest

from angularkd.system import timing
from angularkd.system.timing import time_in_turn


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock that stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_medians_and_spreads_are_those_of_the_calls_after_the_first(clock) -> None:
    order: list[str] = []
    seconds = {"one": iter([9.0, 1.0, 2.0, 3.0, 4.0]), "other": iter([9.0, 5.0, 5.0, 5.0, 5.0])}

    def call(name: str) -> None:
        order.append(name)
        clock[0] += next(seconds[name])

    calls = {name: lambda name=name: call(name) for name in seconds}
    found = time_in_turn(calls, repeats=4, least_repeats=1, longest_seconds=1e9)
    assert found["one"] == {"median_ms": 2500.0, "spread_ms": pytest.approx(1250.0), "repeats": 4}
    assert found["other"] == {"median_ms": 5000.0, "spread_ms": 0.0, "repeats": 4}
    assert order == ["one", "other"] * 5


def test_it_ends_where_time_has_passed_but_not_before_the_least(clock) -> None:
    def call() -> None:
        clock[0] += 10

    assert time_in_turn({"a": call}, repeats=50, least_repeats=3, longest_seconds=1)["a"]["repeats"] == 3
