"""The teacher's cache of a built job: what its answers depend on, filling it ahead, and checking it against the teacher."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from angularkd.data.in_memory import ResidentImages
from angularkd.data.splits import Split
from angularkd.data.views.tables import Views
from angularkd.distillation.distiller import Distiller
from angularkd.distillation.teacher_cache import About, TeacherCache
from angularkd.errors import InputError
from angularkd.models.classifier import Classifier
from angularkd.models.weights import fingerprint
from angularkd.types import Batch

LOOKS = 64
"""Images whose pixels stand for a split that is not in memory, evenly spread over it."""
TOLERANCE = 2e-3
"""Largest difference between a kept answer and the live one, relative to the largest value of its field: float16 keeps 11
bits, and a batch of another size rounds differently."""


def open_cache(
    folder: Path,
    distiller: Distiller,
    teacher: Classifier,
    split: Split,
    train: ResidentImages | None,
    views: Views,
    precision: str,
    top_logits: int | None = None,
) -> TeacherCache:
    """Let the distiller's teacher answer from its cache in `folder`, which is made where there is none.

    Raises InputError for endless views, damaged files, a full disk, and losses whose answers cannot be kept.
    """
    if views.count is None:
        raise InputError(
            f"augmentation by {' and '.join(views.ops)} has endless views, and a cache keeps each: "
            "say how many to draw with --cache-views, for example 20"
        )
    about = About(
        teacher=_fingerprint_of_teacher(teacher.module),
        preprocessing=_what_is_done_to_images(teacher),
        precision=precision,
        data=_fingerprint_of(split, train),
        views=asdict(views),
        samples=views.num_samples,
        views_count=views.count,
    )
    example = torch.zeros(1, 3, *views.image_size, device=next(teacher.module.parameters()).device)
    return distiller.keep_answers(example, lambda fields: TeacherCache(folder, about, fields), top_logits)


@dataclass(frozen=True)
class Filled:
    """What filling a cache took: images that the teacher saw, and seconds in all."""

    images: int
    seconds: float


def fill(distiller: Distiller, cache: TeacherCache, batches: Iterator[Batch]) -> Filled:
    """Let the teacher answer for all of these batches; those in the cache already cost nothing."""
    started, images = time.perf_counter(), 0
    for batch in batches:
        assert batch.view is not None
        images += distiller.fill_cache(batch.images, batch.indices, batch.view)
    cache.flush()
    return Filled(images, time.perf_counter() - started)


def verify(distiller: Distiller, cache: TeacherCache, batches: Iterator[Batch]) -> dict[str, float]:
    """The largest difference of kept and live answers by field of numbers, relative to the field's largest value.

    Only images that the cache holds are compared. Raises InputError where there are none, or a difference is beyond
    TOLERANCE.
    """
    worst: dict[str, float] = {field.name: 0.0 for field in cache.fields if field.dtype == "float16"}
    compared = 0
    for batch in batches:
        assert batch.view is not None
        held = (~cache.missing(batch.view, batch.indices)).nonzero()[:, 0]
        if len(held) == 0:
            continue
        compared += len(held)
        indices = batch.indices.cpu()[held]
        kept = cache.read(batch.view, indices, batch.images.device)
        live = distiller.live_answers(batch.images.index_select(0, held.to(batch.images.device)), kept)
        for name in worst:
            scale = live[name].abs().max().clamp(min=1e-12)
            worst[name] = max(worst[name], float((kept[name] - live[name]).abs().max() / scale))
    if compared == 0:
        raise InputError(f"the teacher cache {cache.folder} holds nothing of what was looked at: fill it first")
    for name, difference in worst.items():
        if difference > TOLERANCE:
            raise InputError(
                f"the teacher cache {cache.folder} does not hold what the teacher says: {name} is off by {difference:.1e} of its "
                "largest value: remove the folder, and it is filled anew"
            )
    return worst


def _fingerprint_of_teacher(module: nn.Module) -> str:
    """Of its weights, its layers, and the file that its class is written in: a changed forward gives other answers."""
    digest = hashlib.blake2b(f"{fingerprint(module)} {module!r}".encode(), digest_size=16)
    source = inspect.getsourcefile(type(module))
    if source is not None:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


def _what_is_done_to_images(teacher: Classifier) -> str:
    """Mean, deviation and size before the teacher, and the mapping of its classes behind it."""
    assert teacher.preprocessing is not None
    groups = teacher.mapping.groups if teacher.mapping is not None else None
    return repr((teacher.preprocessing.mean, teacher.preprocessing.std, teacher.preprocessing.size, groups))


def _fingerprint_of(split: Split, train: ResidentImages | None) -> str:
    """Of the decoded images and their order; where they are not in memory, of their names and some of their pixels."""
    digest = hashlib.blake2b(digest_size=16)
    if train is not None:
        digest.update(repr(tuple(train.pixels.shape)).encode())
        digest.update(train.pixels.numpy().data)
    else:
        digest.update("\n".join(split.name(row) for row in range(len(split))).encode())
        for row in np.linspace(0, len(split) - 1, min(LOOKS, len(split)), dtype=int):
            digest.update(split[int(row)][0].tobytes())
    return digest.hexdigest()
