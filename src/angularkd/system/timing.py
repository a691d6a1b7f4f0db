"""How long calls take on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]


def time_in_turn(
    calls: Mapping[str, Call], *, repeats: int, least_repeats: int, longest_seconds: float
) -> dict[str, dict[str, float]]:
    """Time several calls in turn, so that what else the machine does concerns all of them, after one that does not count.

    Args:
        calls: by name; each returns when its work is done.
        repeats: how often each is called.
        least_repeats: how often at least, where `longest_seconds` have passed.
        longest_seconds: for all of them together.

    Returns:
        Of each the median in milliseconds, the spread, which is half of the distance between the quartiles, and the repeats.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= least_repeats and time.perf_counter() - started > longest_seconds:
            break
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: _summary(values) for name, values in times.items()}


def _summary(milliseconds: list[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(milliseconds, n=4)
    return {
        "median_ms": statistics.median(milliseconds),
        "spread_ms": (quartiles[2] - quartiles[0]) / 2,
        "repeats": len(milliseconds),
    }
