"""The cache command as functions: fill a teacher's cache ahead of a run, check it against the teacher, describe it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from angularkd.commands.tables import show_cache
from angularkd.config.commands import DistillConfig
from angularkd.data.loaders.resident import in_order
from angularkd.distillation.filling import fill, verify
from angularkd.distillation.teacher_cache import TeacherCache
from angularkd.errors import InputError
from angularkd.system.files import check_writable
from angularkd.training.build import Job, build_distillation
from angularkd.training.compilation import compile_teacher
from angularkd.training.plan import teacher_speed
from angularkd.training.progress import duration
from angularkd.types import Batch

VERIFIED_BATCHES = 20
"""Batches that are compared with the live teacher, evenly spread over the views and samples."""


def run_cache(action: str, config: DistillConfig, console: Console | None = None) -> dict[str, Any]:
    """Fill, verify or describe the cache that `distill` with the same options would use; what it holds in the end.

    Raises InputError without a folder in `config.cache`, and for a cache that does not hold what the teacher says.
    """
    console = console or Console(quiet=True)
    if config.cache is None:
        raise InputError("say where the teacher's answers are kept, for example --cache runs/cache")
    if config.teacher_train is not None:
        raise InputError(
            "the teacher is to be fitted first: distil once with --teacher-train, and name the fitted teacher's folder"
        )
    check_writable(Path(config.cache), "--cache")
    job = build_distillation(config)
    assert job.cache is not None
    done = ACTIONS[action](job, job.cache, console)
    found = {"folder": str(job.cache.folder), "size_bytes": job.cache.size_bytes, "filled": job.cache.filled, **done}
    show_cache(found, [(field.name, field.shape) for field in job.cache.fields], console)
    return found


def _fill(job: Job, cache: TeacherCache, console: Console) -> dict[str, Any]:
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
    compile_teacher(job, lambda line: console.print(line, soft_wrap=True, highlight=False))
    with job.fabric.autocast():
        done = fill(job.distiller, cache, _all_views(job, views))
    speed = f", {done.images / done.seconds:,.0f} images/s" if done.images else ""
    console.print(f"the teacher saw {done.images:,} images in {duration(done.seconds)}{speed}", highlight=False)
    return {"images": done.images, "seconds": done.seconds}


def _verify(job: Job, cache: TeacherCache, console: Console) -> dict[str, Any]:
    total = cache.about.views_count * len(in_order(job.batches))
    some = itertools.islice(_all_views(job, cache.about.views_count), 0, None, max(1, total // VERIFIED_BATCHES))
    with job.fabric.autocast():
        worst = verify(job.distiller, cache, some)
    for name, difference in worst.items():
        console.print(f"{name}: off by {difference:.1e} of its largest value at most", highlight=False)
    return {"off_by": worst}


def _info(job: Job, cache: TeacherCache, console: Console) -> dict[str, Any]:
    return {}


ACTIONS: dict[str, Callable[[Job, TeacherCache, Console], dict[str, Any]]] = {
    "fill": _fill,
    "verify": _verify,
    "info": _info,
}


def _all_views(job: Job, views: int) -> Iterator[Batch]:
    batches = in_order(job.batches)
    return itertools.chain.from_iterable(batches.epoch(view) for view in range(views))
