"""What every timing here has in common: parts timed in turn within one process, and a result that says where it was made."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from angularkd.system.environment import hardware

WARM_UP = 2
"""Rounds that are not counted."""


def in_rounds(parts: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each part, in rounds that run every part once, so that what else the machine does hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for round_ in range(rounds + WARM_UP):
        for name, part in parts.items():
            wait()
            started = time.perf_counter()
            part()
            wait()
            if round_ >= WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def wait() -> None:
    """For what the device still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(above: Sequence[float], *below: Sequence[float]) -> dict[str, float]:
    """Median over the rounds of above / sum of below, with its quartiles."""
    ratios = [one / sum(others) for one, *others in zip(above, *below, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": middle, "quartiles": [low, high]}


def environment(**more: Any) -> dict[str, Any]:
    """Hardware and versions, for the result of a benchmark."""
    return {**hardware(), "torch": torch.__version__, "python": platform.python_version(), **more}


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], lines: Sequence[str] = ()) -> None:
    """A table on the terminal, and lines below it."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*map(str, row))
    console = Console()
    console.print(title, highlight=False)
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def write(file: Path | None, result: Mapping[str, Any]) -> None:
    """As JSON, where a file was asked for."""
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n")


def shown(ratio_: Mapping[str, Any]) -> str:
    """A ratio with its quartiles, as text."""
    low, high = ratio_["quartiles"]
    return f"{ratio_['median']:.3f} (quartiles {low:.3f} to {high:.3f})"
