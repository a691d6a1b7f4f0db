"""What a teacher's answers depend on: the key of its cache, so that a stale one is never found rather than found and refused."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from angularkd.data import ResidentImages, Split, Views, listing
from angularkd.distillation import About
from angularkd.errors import InputError
from angularkd.models import Classifier, fingerprint
from angularkd.training.fingerprints import code_behind

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
        teacher=_teacher_fingerprint(teacher.module, teacher.architecture or teacher.spec),
        preprocessing=_preprocessing_text(teacher),
        precision=precision,
        data=_data_fingerprint(split, resident),
        views=asdict(views),
        samples=views.num_samples,
        views_count=views.count,
    )


def _teacher_fingerprint(module: nn.Module, spec: str = "") -> str:
    """Hash the weights, the layers and the code of a network: a changed forward gives other answers, as another version may."""
    code = code_behind(module, spec)
    contents = sorted(digest for path, digest in code.items() if Path(path).is_absolute())
    packages = sorted(f"{name} {version}" for name, version in code.items() if not Path(name).is_absolute())
    parts = f"{fingerprint(module)} {module!r} {contents} {packages} {torch.__version__}"
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _preprocessing_text(teacher: Classifier) -> str:
    """Return mean, deviation and size before the teacher, and the mapping of its classes behind it."""
    assert teacher.preprocessing is not None
    groups = teacher.mapping.groups if teacher.mapping is not None else None
    about = teacher.preprocessing
    channels = (about.channels,) if about.channels is not None else ()
    return repr((about.mean, about.std, about.size, groups, *channels))


def _data_fingerprint(split: Split, resident: ResidentImages | None) -> str:
    """Hash the decoded images in their order; where they are not in memory, their files' names, sizes and times, and some pixels."""
    digest = hashlib.blake2b(digest_size=16)
    if resident is not None:
        digest.update(repr(tuple(resident.pixels.shape)).encode())
        digest.update(resident.pixels.numpy().data)
    else:
        digest.update(listing(split, times=True).encode())
        for row in np.linspace(0, len(split) - 1, min(SAMPLED_IMAGES, len(split)), dtype=int):
            digest.update(split[int(row)][0].tobytes())
    return digest.hexdigest()
