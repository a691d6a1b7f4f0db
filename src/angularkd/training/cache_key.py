"""What a teacher's answers depend on: the key of its cache, so that a stale one is never found rather than found and refused."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn

from angularkd.data import ResidentImages, Split, Views
from angularkd.distillation import About
from angularkd.errors import InputError
from angularkd.models import Classifier, fingerprint

SAMPLED_IMAGES = 64
"""Images whose pixels stand for a split that is not in memory, evenly spread over it."""


def describe_answers(
    teacher: Classifier, split: Split, resident: ResidentImages | None, views: Views, precision: str
) -> About:
    """Return what the answers of a teacher to the views of a split depend on.

    Args:
        teacher: with its preprocessing and its class mapping.
        split: the training split; `resident` holds its decoded images, where they are in memory.
        views: the augmentation.
        precision: of the networks' arithmetic.

    Raises:
        InputError: for endless views.
    """
    if views.count is None:
        raise InputError(
            f"augmentation by {' and '.join(views.ops)} has endless views, and a cache stores each: "
            "say how many to draw with `cache_views`, for example 20"
        )
    return About(
        teacher=_teacher_fingerprint(teacher.module),
        preprocessing=_preprocessing_text(teacher),
        precision=precision,
        data=_data_fingerprint(split, resident),
        views=asdict(views),
        samples=views.num_samples,
        views_count=views.count,
    )


def _teacher_fingerprint(module: nn.Module) -> str:
    """Hash the weights, the layers, and the file that the class is written in: a changed forward gives other answers."""
    digest = hashlib.blake2b(f"{fingerprint(module)} {module!r}".encode(), digest_size=16)
    try:
        source = inspect.getsourcefile(type(module))
    except TypeError:  # a class of a user's own file, which is no imported module
        source = inspect.getsourcefile(type(module).forward)
    if source is not None:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


def _preprocessing_text(teacher: Classifier) -> str:
    """Return mean, deviation and size before the teacher, and the mapping of its classes behind it."""
    assert teacher.preprocessing is not None
    groups = teacher.mapping.groups if teacher.mapping is not None else None
    return repr((teacher.preprocessing.mean, teacher.preprocessing.std, teacher.preprocessing.size, groups))


def _data_fingerprint(split: Split, resident: ResidentImages | None) -> str:
    """Hash the decoded images in their order; where they are not in memory, their names and some of their pixels."""
    digest = hashlib.blake2b(digest_size=16)
    if resident is not None:
        digest.update(repr(tuple(resident.pixels.shape)).encode())
        digest.update(resident.pixels.numpy().data)
    else:
        digest.update("\n".join(split.name(row) for row in range(len(split))).encode())
        for row in np.linspace(0, len(split) - 1, min(SAMPLED_IMAGES, len(split)), dtype=int):
            digest.update(split[int(row)][0].tobytes())
    return digest.hexdigest()
