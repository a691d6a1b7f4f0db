"""Filling a teacher's cache ahead of a run, and checking what it stores against the live teacher."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from angularkd.distillation.cached_teacher import CachedTeacher
from angularkd.errors import InputError
from angularkd.system.compiling import begin_step
from angularkd.types import Batch

TOLERANCES = {"float16": 2e-3, "uint8": 7e-3}
"""Largest difference between a stored answer and the live one, relative to the largest value of its field, by its type: float16 holds
11 bits, the code of 8 bits a step of 4.3e-3 at its largest, and a batch of another size rounds differently."""


@dataclass(frozen=True)
class Filled:
    """What filling a cache took: images that the teacher's network was run for, and seconds in all."""

    images: int
    seconds: float


def fill(teacher: CachedTeacher, batches: Iterable[Batch]) -> Filled:
    """Store the teacher's answers to all of these batches; those in the cache already cost nothing.

    Raises:
        InputError: as `TeacherCache.reserve` and `write` do.
    """
    teacher.cache.reserve()
    started, images = time.perf_counter(), 0
    for batch in batches:
        assert batch.view is not None
        begin_step(batch.images.device)
        images += teacher.fill(batch.images, batch.indices, batch.view)
    teacher.cache.close()
    return Filled(images, time.perf_counter() - started)


@dataclass(frozen=True)
class Verified:
    """What checking a cache found.

    Attributes:
        rows: how many rows are stored, all of them as they were written by their checksums.
        compared: how many of them were compared with the live teacher.
        off_by: for each field of numbers the largest difference there, relative to the field's largest value.
    """

    rows: int
    compared: int
    off_by: dict[str, float]


def verify(teacher: CachedTeacher, batches: Iterable[Batch]) -> Verified:
    """Check every stored row by its checksum, and compare those of some batches with the live teacher's answers.

    Args:
        teacher: with its cache.
        batches: what is compared; images that the cache does not hold are passed over.

    Raises:
        InputError: where none of the images is in the cache, a difference is beyond TOLERANCES, or stored values are damaged.
    """
    cache = teacher.cache
    rows = cache.check()
    tolerances = {field.name: TOLERANCES[field.dtype] for field in cache.fields if field.dtype in TOLERANCES}
    worst = dict.fromkeys(tolerances, 0.0)
    compared = 0
    for batch in batches:
        assert batch.view is not None
        held = (~cache.missing(batch.view, batch.indices)).nonzero()[:, 0]
        if len(held) == 0:
            continue
        compared += len(held)
        indices = batch.indices.cpu()[held]
        stored = cache.read(batch.view, indices, batch.images.device)
        live = teacher.live_answers(batch.images.index_select(0, held.to(batch.images.device)), stored)
        for name in worst:
            scale = live[name].abs().max().clamp(min=1e-12)
            difference = float((stored[name] - live[name]).abs().max() / scale)
            worst[name] = worst[name] if difference <= worst[name] else difference  # also where it is no number
    if compared == 0:
        raise InputError(f"the teacher cache {cache.folder} holds none of the images that were compared: fill it first")
    for name, difference in worst.items():
        if not difference <= tolerances[name]:
            raise InputError(
                f"the teacher cache {cache.folder} does not hold what the teacher says: {name} is off by {difference:.1e} of its "
                "largest value: remove the folder, and it is filled anew"
            )
    return Verified(rows, compared, worst)
