"""The cache command: fill a teacher's cache ahead of a run, check it against the teacher, or describe it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from angularkd.commands.tables import print_cache, print_stored_cache
from angularkd.config import CacheInfoConfig, DistillConfig, VerifyConfig, with_flags
from angularkd.data import in_order
from angularkd.distillation import CachedTeacher, StoredCache, check_folder, fill, stored_caches, verify
from angularkd.errors import InputError
from angularkd.system.modes import seeded
from angularkd.training import Job, build_distillation, compile_teacher, duration, open_dataset, teacher_speed
from angularkd.types import Batch


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
    """Check all that the cache holds by checksums, and compare some of it with what the live teacher says.

    Args:
        config: the options; of a `VerifyConfig`, `verify_batches` says how much is compared.
        console: where it is printed what was found.

    Returns:
        The cache's folder, its size in bytes, the share that is filled, how many rows are stored, how many of them were compared
        with the live teacher, and the largest difference by field.

    Raises:
        InputError: for a cache that is empty, or does not hold what the teacher says.
    """
    opened = _open(config)
    with seeded(config.seed):
        return _described(opened, _verify(opened, console), console)


def describe_caches(config: CacheInfoConfig, console: Console) -> list[StoredCache]:
    """Return and print the caches in a folder: of what, how large, and how full.

    Raises:
        InputError: where there are none.
    """
    caches = stored_caches(Path(config.folder))
    for cache in caches:
        print_stored_cache(cache, console)
    return caches


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
    default = VerifyConfig.model_fields["verify_batches"].default
    wanted = job.config.verify_batches if isinstance(job.config, VerifyConfig) else default
    step = 1 if wanted == "all" else max(1, views * len(in_order(job.batches)) // wanted)
    with job.fabric.autocast():
        found = verify(opened.teacher, itertools.islice(_all_views(job, views), 0, None, step))
    rest = "" if found.compared == found.rows else with_flags(" (all of them with `verify_batches=all`)")
    console.print(
        f"{found.rows:,} stored rows are as they were written, {found.compared:,} were compared with the live teacher{rest}",
        highlight=False,
    )
    for name, difference in found.off_by.items():
        console.print(f"{name}: off by {difference:.1e} of its largest value at most", highlight=False)
    return {"rows": found.rows, "compared": found.compared, "off_by": found.off_by}


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
}
"""What `angularkd cache` can do with the teacher, by name; `info` does without."""
