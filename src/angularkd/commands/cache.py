"""The cache command: fill a teacher's cache ahead of a run, check it against the teacher, or describe it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from angularkd.commands.tables import print_cache
from angularkd.config import DistillConfig, with_flags
from angularkd.data import in_order
from angularkd.distillation import CachedTeacher, check_folder, fill, verify
from angularkd.errors import InputError
from angularkd.system.modes import seeded
from angularkd.training import Job, build_distillation, compile_teacher, duration, open_dataset, teacher_speed
from angularkd.types import Batch

VERIFIED_BATCHES = 20
"""Batches that are compared with the live teacher, evenly spread over the views and samples."""


def fill_cache(config: DistillConfig, console: Console) -> dict[str, Any]:
    """Fill the cache that `distill` with the same options would use.

    Args:
        config: the options; `cache` names the folder.
        console: where it is printed what was done.

    Returns:
        The cache's folder, its size in bytes, the share that is filled, the images that the teacher ran for, and seconds.

    Raises:
        InputError: without a folder in `cache`, and when something that was given cannot be used.
    """
    opened = _open(config)
    with seeded(config.seed):
        return _described(opened, _fill(opened, console), console)


def verify_cache(config: DistillConfig, console: Console) -> dict[str, Any]:
    """Compare what the cache holds with what the live teacher says; arguments are those of `fill_cache`.

    Returns:
        The cache's folder, its size in bytes, the share that is filled, and the largest difference by field.

    Raises:
        InputError: for a cache that is empty, or does not hold what the teacher says.
    """
    opened = _open(config)
    with seeded(config.seed):
        return _described(opened, _verify(opened, console), console)


def describe_cache(config: DistillConfig, console: Console) -> dict[str, Any]:
    """Return and print the cache's folder, its size in bytes, and the share that is filled."""
    return _described(_open(config), {}, console)


@dataclass(frozen=True)
class _Opened:
    """A built job and the teacher that answers from its cache."""

    job: Job
    teacher: CachedTeacher


def _open(config: DistillConfig) -> _Opened:
    if config.cache is None:
        raise InputError("say where the teacher's answers are stored, for example `cache=runs/cache`")
    if config.teacher_train is not None:
        raise InputError(
            "the teacher is to be fitted first: distil once with `teacher_train`, and name the fitted teacher's folder"
        )
    check_folder(Path(config.cache))
    dataset = open_dataset(config)
    with seeded(config.seed):
        job = build_distillation(config, dataset)
    assert job.cached is not None
    return _Opened(job, job.cached)


def _fill(opened: _Opened, console: Console) -> dict[str, Any]:
    job, cache = opened.job, opened.teacher.cache
    views = cache.about.views_count
    estimate = ""
    if cache.missing_rows:
        with job.fabric.autocast():
            seconds = cache.missing_rows / teacher_speed(job.distiller, next(job.batches.epoch(0)))
        estimate = f", about {duration(seconds)}"
    console.print(
        f"{views} views of {cache.about.samples:,} images, {cache.size_bytes / 2**20:,.0f} MiB{estimate}",
        highlight=False,
    )
    compile_teacher(job, lambda line: console.print(with_flags(line), soft_wrap=True, highlight=False))
    with job.fabric.autocast():
        done = fill(opened.teacher, _all_views(job, views))
    speed = f", {done.images / done.seconds:,.0f} images/s" if done.images else ""
    console.print(f"the teacher ran for {done.images:,} images in {duration(done.seconds)}{speed}", highlight=False)
    return {"images": done.images, "seconds": done.seconds}


def _verify(opened: _Opened, console: Console) -> dict[str, Any]:
    job, views = opened.job, opened.teacher.cache.about.views_count
    total = views * len(in_order(job.batches))
    some = itertools.islice(_all_views(job, views), 0, None, max(1, total // VERIFIED_BATCHES))
    with job.fabric.autocast():
        worst = verify(opened.teacher, some)
    for name, difference in worst.items():
        console.print(f"{name}: off by {difference:.1e} of its largest value at most", highlight=False)
    return {"off_by": worst}


def _described(opened: _Opened, done: dict[str, Any], console: Console) -> dict[str, Any]:
    cache = opened.teacher.cache
    found = {"folder": str(cache.folder), "size_bytes": cache.size_bytes, "filled": cache.filled, **done}
    print_cache(found, [(field.name, field.shape) for field in cache.fields], console)
    return found


def _all_views(job: Job, views: int) -> Iterator[Batch]:
    batches = in_order(job.batches)
    return itertools.chain.from_iterable(batches.epoch(view) for view in range(views))


ACTIONS: dict[str, Callable[[DistillConfig, Console], dict[str, Any]]] = {
    "fill": fill_cache,
    "verify": verify_cache,
    "info": describe_cache,
}
"""What `angularkd cache` can do, by name."""
