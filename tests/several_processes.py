"""Runs in two processes on the CPU, as torchrun starts them, forked from one that has imported what they need."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from angularkd.cli import main
from killed_runs import InProcess, in_process


def start(
    call: Callable[[], object], folder: Path, *, processes: int = 2, environment: Mapping[str, str] | None = None
) -> list[InProcess]:
    """Call something in several processes that find each other; what each writes on standard error is in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "TORCH_CPP_LOG_LEVEL": "ERROR", **(environment or {})}
    calls = (
        partial(_as_one, call, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)
    )
    return [in_process(one, folder / f"errors-{rank}") for rank, one in enumerate(calls)]


def command(*arguments: object) -> Callable[[], object]:
    """Return a command line as a call."""
    return partial(main, [str(argument) for argument in arguments])


def end(processes: list[InProcess]) -> tuple[list[int], list[str]]:
    """Wait for processes, and return their exit codes and the lines that the command line wrote on standard error, all together.

    PyTorch's own are left out, which it keeps to itself where it is imported by `python -m angularkd`.
    """
    codes = [process.wait() for process in processes]
    return codes, [line for process in processes for line in process.said.splitlines() if "angularkd: " in line]


def _as_one(call: Callable[[], object], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    call()
