"""The processes of one run while they compute together: what they share, add up, and leave to the first of them.

Every function here is called by all of them in the same order; in a process of its own, and inside of `alone`, each does the obvious
without asking anybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed

from angularkd.errors import InputError
from angularkd.system.processes import LostProcess, process_count

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=1)
"""How long processes wait for another that is alive: one may fill a cache for all."""
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Let the processes that torchrun has started work together inside: by gloo on CPUs, by NCCL on GPUs.

    Nothing is done for one process, nor where the caller has joined them. After an error they stay joined, so that no other finds its
    neighbour gone before that has said why.

    Args:
        device: auto, cpu, cuda or mps.

    Raises:
        InputError: for a device of which there is one alone, or fewer than processes.
    """
    count = process_count()
    if count == 1 or distributed.is_initialized():
        yield
        return
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if device == "mps" or (device == "auto" and not on_gpu and torch.backends.mps.is_available()):
        raise InputError("several processes compute on CPUs or CUDA devices: give `device`, cpu or cuda")
    if on_gpu:
        here, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if here >= gpus:
            raise InputError(
                f"there are more processes on this machine than its {gpus} CUDA devices: start as many, or use `device=cpu`"
            )
        torch.cuda.set_device(here)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    yield
    distributed.barrier()
    distributed.destroy_process_group()


def together() -> bool:
    """Return whether this is one of several processes that do the same now."""
    return count() > 1 and not _alone.get()


def count() -> int:
    """Return how many processes have joined."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def number() -> int:
    """Return which of them this is, from 0."""
    return distributed.get_rank() if count() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """Compute inside as if this were the only process."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def once(compute: Callable[[], T]) -> T:
    """Return what the first process computes, alone, while the others wait for it.

    Raises:
        LostProcess: in the others, where it failed.
    """
    if not together():
        return compute()
    if number() == 0:
        try:
            with alone():
                value = compute()
        except BaseException:
            with suppress(Exception):
                distributed.broadcast_object_list([False, None])
            raise
        distributed.broadcast_object_list([True, value])
        return value
    found: list[Any] = [False, None]
    distributed.broadcast_object_list(found)
    if not found[0]:
        raise LostProcess("the first process of this run has failed, and says why")
    return cast(T, found[1])


def first_here(compute: Callable[[], T]) -> T:
    """Return what each process computes; the first does before the others, for what it downloads or writes they find then.

    Raises:
        LostProcess: in the others, where it failed.
    """
    found: list[T] = []
    once(lambda: found.append(compute()))
    return found[0] if found else compute()


def gather(value: T) -> list[T]:
    """Return what each process gives, in their order, as copies."""
    if not together():
        return [value]
    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, value)
    return found


def most(*numbers: int) -> list[int]:
    """Return the largest of what the processes give, place by place."""
    if not together():
        return list(numbers)
    largest = torch.tensor(numbers, dtype=torch.int64)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return largest.tolist()


def any_of(flag: Tensor) -> Tensor:
    """Return whether a flag is set in some process; nothing waits for the device."""
    if not together():
        return flag
    largest = flag.to(torch.int32)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return largest > 0


@torch.no_grad()
def gather_rows(rows: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """Return the rows of all processes, in their order, without gradients; they may have unequal numbers of them."""
    if not together():
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(count())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(length) for length in counts]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(gathered, padded)
    return torch.cat([of_one[:length] for of_one, length in zip(gathered, lengths, strict=True)])


def total(value: Tensor) -> Tensor:
    """Return the sum over the processes, added in their order, so that it is the same in all of them."""
    return gather_rows(value[None]).sum(dim=0) if together() else value


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of floating point, all on one device, by their means over the processes."""
    if not together() or not tensors:
        return
    flat = torch.cat([tensor.flatten().double() for tensor in tensors])
    distributed.all_reduce(flat)
    flat, begin = flat / count(), 0
    for tensor in tensors:
        tensor.copy_(flat[begin : begin + tensor.numel()].view_as(tensor))
        begin += tensor.numel()


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the first process."""
    if together():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
