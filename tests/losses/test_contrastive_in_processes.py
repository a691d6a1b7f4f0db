"""CRD in two processes of a distributed training: both remember what both have seen, as one process with all images does."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from angularkd import Distiller
from angularkd.losses.contrastive import CRD

SAMPLES, PER_RANK, STEPS = 12, 3, 2
LONGEST_SECONDS = 120.0
LABELS = torch.arange(SAMPLES) % 3
IMAGES = torch.rand(SAMPLES, 3, 4, 4, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no torch.distributed")


class AllOthers(CRD):
    """CRD whose negatives are all samples of other classes, so that nothing is drawn."""

    def draw_negatives(self, indices: Tensor) -> Tensor:
        rows = torch.arange(SAMPLES)
        return torch.stack([rows[LABELS[index] != LABELS] for index in indices])


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3))


def distiller() -> Distiller:
    losses = {"ce": 1.0, "crd": {"weight": 1.0, "num_negatives": 8, "projection_dim": 4}}
    made = Distiller(small(0), small(1), losses, example=IMAGES, train_labels=LABELS).train()
    made.losses.losses["crd"].__class__ = AllOthers
    return made


def step(module: nn.Module, inner: Distiller, indices: Tensor) -> None:
    inner.zero_grad()
    module(IMAGES[indices], LABELS[indices], indices).total.backward()
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter -= 0.1 * parameter.grad


def memories(made: Distiller) -> dict[str, Tensor]:
    loss = made.losses.losses["crd"]
    return {name: buffer.clone() for name, buffer in loss.named_buffers()} | {
        "weight": loss.student_projection.weight.detach()
    }


def process(rank: int, folder: str, broadcast: bool, sizes: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)
    made = distiller()
    with torch.no_grad():  # of its own, until DistributedDataParallel gives all those of rank 0
        made.losses.losses["crd"].student_memory += rank if broadcast else 0
    module = DistributedDataParallel(made, broadcast_buffers=broadcast)
    starts = {"first": memories(made)}
    for number in range(STEPS):
        start = number * sum(sizes) + rank * sizes[0]
        step(module, made, torch.arange(start, start + sizes[rank]))
    torch.save(starts | {"last": memories(made)}, Path(folder) / f"{rank}.pt")
    until = time.monotonic() + LONGEST_SECONDS
    while not (Path(folder) / f"{1 - rank}.pt").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os._exit(0)  # what DistributedDataParallel and gloo take down at the end may wait for the other process for ever


@pytest.mark.parametrize(("broadcast", "sizes"), [(True, (3, 3)), (False, (3, 3)), (True, (4, 2))])
def test_both_processes_remember_the_rows_of_both(tmp_path, broadcast, sizes) -> None:
    both = multiprocessing.spawn(process, (str(tmp_path), broadcast, sizes), nprocs=2, join=False)
    until = time.monotonic() + LONGEST_SECONDS
    while not both.join(timeout=1):
        if time.monotonic() > until:
            for one in both.processes:
                one.kill()
            pytest.fail("the processes wait for each other")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in ranks[0]["last"]:
        assert torch.equal(ranks[0]["last"][name], ranks[1]["last"][name]), name
    for side in ("student_memory", "teacher_memory"):
        assert (ranks[0]["last"][side] != ranks[0]["first"][side]).any(dim=1).all(), "every row has moved on"
    if sizes[0] == sizes[1]:  # else the mean of gradients is not that of one process
        torch.manual_seed(0)
        alone = distiller()
        for number in range(STEPS):
            step(alone, alone, torch.arange(number * 6, number * 6 + 6))
        for name, value in memories(copy.deepcopy(alone)).items():
            torch.testing.assert_close(ranks[1]["last"][name], value)
