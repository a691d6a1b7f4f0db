"""The processes of one run, as torchrun starts them: how many there are, starting them, and which of them says why they end.

Nothing here imports torch before it is needed: a command that is mistyped ends at once.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from angularkd.errors import InputError

WAIT_SECONDS = 3.0
"""How long a process that has lost another waits for that one to say why."""
LEAST_IMAGES = 2
"""Images of a batch in each process: batch normalisation needs more than one."""
STOPPING_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
"""What is passed on to the processes of a run that one command has started."""


class LostProcess(RuntimeError):
    """Raised in the other processes of a run where one has failed: that one says why."""


def process_count(environment: Mapping[str, str] = os.environ) -> int:
    """Return of how many processes this one is, as torchrun says in the environment; 1 without it.

    Raises:
        InputError: for an environment that says only half of it.
    """
    count = _number(environment, "WORLD_SIZE", 1)
    if count > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
        if missing:
            raise InputError(
                f"the environment says that this is one of {count} processes (WORLD_SIZE), and not which ({', '.join(missing)}): start "
                "them by torchrun --nproc-per-node N -m angularkd, or one alone with `devices`"
            )
    return count


def process_number(environment: Mapping[str, str] = os.environ) -> int:
    """Return which of them this is, from 0."""
    return _number(environment, "RANK", 0)


def restarts(environment: Mapping[str, str] = os.environ) -> int:
    """Return how often torchrun has started the processes of this run anew, after one of them had failed."""
    return _number(environment, "TORCHELASTIC_RESTART_COUNT", 0)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else default


def check_parts(batch_size: int, count: int) -> None:
    """Check that a batch has equal parts for several processes.

    Raises:
        InputError: where it has not, or parts of less than LEAST_IMAGES.
    """
    if count > 1 and (batch_size % count or batch_size < LEAST_IMAGES * count):
        raise InputError(
            f"`batch_size` is that of all {count} processes together, and {batch_size} images are no equal parts of "
            f"{LEAST_IMAGES} or more: give a multiple of {count}, {LEAST_IMAGES * count} or more"
        )


def check_devices(devices: int, device: str) -> None:
    """Check that a machine has as many devices as processes are to be started.

    Args:
        devices: how many.
        device: auto, cpu, cuda or mps.

    Raises:
        InputError: where it has fewer.
    """
    import torch

    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    there, what = (torch.cuda.device_count(), "CUDA devices") if on_gpu else (os.cpu_count() or 1, "processors")
    if devices > there:
        raise InputError(f"`devices={devices}` is more than this machine has, which is {there} {what}: give no more")


def launch(devices: int, arguments: Sequence[str]) -> tuple[int, str | None]:
    """Run a command line in several processes of this machine, by torchrun's agent, and wait for them.

    Args:
        devices: how many.
        arguments: of the command line.

    Returns:
        The exit code of the process that ended first with one other than 0, and what to say where none of them could say it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # this process does nothing but wait; what is wrong, the others say
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // devices)))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = STOPPING_SIGNALS
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "angularkd", *arguments)
    except SignalException as stopped:
        return 128 + int(stopped.sigval), None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            return 128 - failure.exitcode, f"process {rank} of {devices} was killed by signal {-failure.exitcode}"
        return failure.exitcode, None
    return 0, None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def note_begun(path: Path) -> None:
    """Tell the processes that torchrun starts anew after a failure that those before had begun the run in a folder."""
    if _agent_holds_store():
        _store().set(_begun(path), "1")


def has_begun(path: Path) -> bool:
    """Return whether processes of this run had begun it in a folder before a failure, rather than found another run there."""
    return not _agent_holds_store() or bool(_store().check([_begun(path)]))


def _begun(path: Path) -> str:
    return f"angularkd/begun/{path.absolute()}"


def _agent_holds_store() -> bool:
    """Return whether what the processes share outlives them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def last_words(code: int, *, lost: bool = False) -> tuple[bool, int]:
    """Settle which process of a run says why it ends: the first that asks.

    Args:
        code: the exit code of this one.
        lost: whether this one ends because another did, which is to say why.

    Returns:
        Whether it is this one, and the exit code, which is that of the first.
    """
    if _number(os.environ, "WORLD_SIZE", 1) == 1:
        return True, code
    try:
        store, key = _store(), f"angularkd/{restarts()}/end"
        if lost:
            _wait_for(store, key)
        if store.add(f"{key}/asked", 1) == 1:
            store.set(key, str(code))
            return True, code
        _wait_for(store, key)
        return False, int(store.get(key)) if store.check([key]) else code
    except Exception:  # the one that holds the store is gone
        return process_number() == 0 and not lost, code


def _store() -> Any:
    """Return what the processes of a run share with torchrun's agent, or with the first of them."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    environment = os.environ
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=WAIT_SECONDS))


def _wait_for(store: Any, key: str) -> None:
    until = time.monotonic() + WAIT_SECONDS
    with suppress(RuntimeError):
        while time.monotonic() < until and not store.check([key]):
            time.sleep(0.05)


def is_lost_process(error: BaseException) -> bool:
    """Return whether an error says that another process of this run is gone."""
    if isinstance(error, LostProcess):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    of_network = bool(names & {"DistError", "DistNetworkError", "DistBackendError", "DistStoreError"})
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
    return of_network or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))
