"""What the processes of one run settle beside training: who holds the folder, who fills the cache, and who draws what."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from angularkd.config import Recipe
from angularkd.data import in_order
from angularkd.distillation import CachedTeacher, fill
from angularkd.errors import InputError
from angularkd.runs import RunFolder
from angularkd.system import ranks
from angularkd.system.processes import check_parts, has_begun, note_begun, restarts
from angularkd.training.job import Job
from angularkd.training.progress import Reporter, Silent

C = TypeVar("C", bound=Recipe)


def check_processes(config: Recipe) -> None:
    """Check that a run can be of the processes that have joined.

    Raises:
        InputError: where another number of them is asked for, or a batch is no equal parts of two images or more.
    """
    count = ranks.count()
    if config.devices not in (1, count):
        raise InputError(
            f"`devices={config.devices}` starts as many processes where angularkd is started on the command line, and this is one of "
            f"{count}: start them by torchrun --nproc-per-node {config.devices}"
        )
    check_parts(config.batch_size, count)
    if config.sync_batchnorm and count == 1:
        raise InputError("`sync_batchnorm` is of several processes, and this is one: leave it out, or give `devices`")


def heard(reporter: Reporter | None) -> Reporter:
    """Return to whom this process reports: the first alone does."""
    return reporter if reporter is not None and ranks.number() == 0 else Silent()


@contextmanager
def claimed(config: C, folder: RunFolder) -> Iterator[tuple[C, RunFolder]]:
    """Hold the folder of a run that is started there, or goes on: with `resume`, and where torchrun has started it anew after a failure.

    Yields:
        The configuration, with `resume` in the second case, and the folder.
    """
    again = ranks.once(lambda: restarts() > 0 and folder.resumable and has_begun(folder.path))
    config = config.model_copy(update={"resume": True}) if again else config
    with held(folder, config.resume) as folder:
        ranks.once(lambda: note_begun(folder.path))
        yield config, folder


@contextmanager
def held(folder: RunFolder, resume: bool) -> Iterator[RunFolder]:
    """Hold a folder; of several processes the first does, for all of them."""
    with ExitStack() as stack:
        found = [folder]

        def hold() -> None:
            found[0] = stack.enter_context(folder.claimed(resume))

        ranks.once(hold)
        yield found[0]


def with_filled_cache(job: Job, log: Callable[[str], None]) -> None:
    """Let the first of several processes store all answers that the run will ask its teacher for; then all of them read them.

    Raises:
        InputError: where another process does not find them, as on a disk that is not shared.
    """
    if not ranks.together() or job.cached is None:
        return
    epochs = job.config.epochs if job.views.count is None else min(job.config.epochs, job.views.count)
    teacher, views = job.cached, [job.views.view_of(epoch) for epoch in range(epochs)]
    ranks.once(lambda: _fill(job, teacher, views, log))
    teacher.cache.reopen()
    if _missing(job, teacher, views):
        raise InputError(
            f"process {ranks.number()} does not find in {teacher.cache.folder} what the first process has stored there: give a `cache` on "
            "a disk that all machines of the run share"
        )


def _fill(job: Job, teacher: CachedTeacher, views: list[int], log: Callable[[str], None]) -> None:
    missing = _missing(job, teacher, views)
    if missing:
        log(f"the cache is filled first, by one process for all: {missing:,} answers")
        batches = in_order(job.batches)
        with job.fabric.autocast():
            done = fill(teacher, (batch for epoch in range(len(views)) for batch in batches.epoch(epoch)))
        log(f"the cache is filled: {done.images / done.seconds:,.0f} images/s")


def _missing(job: Job, teacher: CachedTeacher, views: list[int]) -> int:
    every = torch.arange(len(job.data.dataset.train))
    return sum(int(teacher.cache.missing(view, every).sum()) for view in views)


def draw_apart(seed: int) -> None:
    """Let each process draw numbers of its own from now on, for dropout and the like; the first goes on with its own."""
    if ranks.number() > 0:
        own = (seed + 1_000_003 * ranks.number()) % 2**32
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)


def with_parts(job: Job) -> Job:
    """Return the job as its training steps get it: with this process's part of each batch."""
    if ranks.count() == 1:
        return job
    return replace(job, batches=job.batches.part_of_batches(ranks.number(), ranks.count()))
