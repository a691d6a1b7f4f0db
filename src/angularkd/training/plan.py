"""The plan of a distillation: what it is going to do, measured on a few images, and the reasons to stop before the first step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from angularkd.config import DistillConfig, Recipe
from angularkd.distillation import CachedTeacher, uncacheable
from angularkd.errors import InputError
from angularkd.features import Pair
from angularkd.losses import notes_of
from angularkd.metrics import evaluate
from angularkd.models import Classifier
from angularkd.system.modes import mode
from angularkd.training.build_data import Data
from angularkd.training.centroids import nearest_centroid_accuracy
from angularkd.training.chance import check_better_than_chance, score, selected
from angularkd.training.job import Job
from angularkd.training.measuring import (
    balance_notes,
    check_runaway,
    gradient_shares,
    seconds_with_cache,
    teacher_speed,
    training_speed,
)
from angularkd.training.memorised import memorised_note, overconfident_note
from angularkd.training.optimisation import images_an_epoch
from angularkd.training.teacher_outputs import notes_on_outputs
from angularkd.training.teacher_validation import MEASURED_IMAGES, validate_teacher
from angularkd.training.thumbnails import nearest_thumbnail_hits, weak_teacher_note

CENTROID_IMAGES, CENTROID_IMAGES_A_CLASS = 500, 10
"""Training images at most, in all and for each class (the larger counts), from which the centroids of a teacher without a head come."""


@dataclass(frozen=True)
class Plan:
    """What a distillation is going to do.

    Attributes:
        teacher, student: spec, parameters, classes and preprocessing of each.
        teacher_validation: the teacher's metrics on the validation split, or on some of it, evenly spread; of one without a
            classification layer, the accuracy of its nearest class centroids alone.
        teacher_images: on how many images they were measured.
        data: name, counts of images and classes, image size, augmentation and its views, how batches are mixed, how the splits came about.
        pairs: which stages teach which, and at which size they are compared.
        weights: by loss term.
        gradient_share: by loss term, its gradient's norm at the student's parameters over the sum of these norms, on the first batch.
        images_per_second: of a training step with the live teacher, measured.
        seconds_expected: of all training steps, the teacher running only for what its cache lacks.
        cache: folder of the teacher's stored answers, its size when full, the share that is there, and the seconds that the teacher
            takes for the rest; None without one.
        notes: plain sentences on what was decided.
    """

    teacher: dict[str, Any]
    student: dict[str, Any]
    teacher_validation: dict[str, float]
    teacher_images: int
    data: dict[str, Any]
    pairs: list[dict[str, Any]]
    weights: dict[str, float]
    gradient_share: dict[str, float]
    images_per_second: float
    seconds_expected: float
    cache: dict[str, Any] | None
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it."""
        return asdict(self)


def make_plan(job: Job, epochs: int) -> Plan:
    """Make the plan of a distillation. The student, its statistics and the random state are left as they were.

    Args:
        job: the distillation, ready to go.
        epochs: how many the run has.

    Raises:
        InputError: when the teacher is no better than chance, and when a loss takes so much of the first gradient that the student
            would not learn its classes.
    """
    assert job.teacher is not None
    notes = job.notes
    validation, measured_images = _measure_teacher(job, notes)
    batch = next(job.batches.epoch(0))
    with job.fabric.autocast():
        shares = gradient_shares(job.distiller, batch)
        speed = training_speed(job.distiller, batch)
        teachers_speed = teacher_speed(job.distiller, batch) if job.cached is not None else None
    on_logits = job.distiller.losses.on_logits
    if job.teacher_ready and not insists(job.config):
        check_runaway(shares, job.distiller.losses.weights, on_logits)
    notes += balance_notes(shares, job.distiller.losses.weights, on_logits)
    notes += notes_of(job.distiller.losses, [pair.size for pair in job.distiller.pairs], len(job.data.dataset.classes))
    live_losses = uncacheable(job.distiller.losses.reductions_by_loss)
    if live_losses:
        notes.append(f"{' and '.join(live_losses)} must use the live teacher: no cache stores what they need")
    elif batch.view is None:
        notes.append("mixed images are in no cache: the teacher runs live")
    images = epochs * images_an_epoch(len(job.batches), job.config.accumulate, job.batches.batch_size)
    seconds, cache = images / speed, None
    if job.cached is not None and teachers_speed is not None:
        seconds = seconds_with_cache(images, speed, teachers_speed, job.cached.cache.missing_rows)
        cache = _describe_cache(job.cached, teachers_speed)
    return Plan(
        teacher=_describe(job.teacher),
        student=_describe(job.student),
        teacher_validation=validation,
        teacher_images=measured_images,
        data=_describe_data(job),
        pairs=[describe_pair(pair, job.distiller.losses.before_activation) for pair in job.distiller.pairs],
        weights=job.distiller.losses.weights,
        gradient_share=shares,
        images_per_second=speed,
        seconds_expected=seconds,
        cache=cache,
        notes=notes,
    )


def insists(config: Recipe) -> bool:
    """Return whether whoever runs this insists on its weights."""
    return isinstance(config, DistillConfig) and config.insist


def describe_pair(pair: Pair, before_activation: Sequence[str]) -> dict[str, Any]:
    """Return a row of the table of pairs.

    Args:
        pair: two stages.
        before_activation: the losses that take features from before a stage's last activation, where there is one.
    """
    return {
        "teacher": pair.teacher.name,
        "teacher_shape": list(pair.teacher.shape),
        "student": pair.student.name,
        "student_shape": list(pair.student.shape),
        "compared_at": list(pair.size),
        "resized": pair.resized,
        "teacher_before_activation": list(before_activation if pair.teacher.before_activation is not None else ()),
        "student_before_activation": list(before_activation if pair.student.before_activation is not None else ()),
    }


def _measure_teacher(job: Job, notes: list[str]) -> tuple[dict[str, float], int]:
    """Return the teacher's metrics on validation images, and on how many; add notes on what they mean."""
    teacher, dataset = job.teacher, job.data.dataset
    assert teacher is not None
    classes = len(dataset.classes)
    if not job.teacher_ready:
        notes.append(
            "the teacher is fitted to the training images first: its accuracy and its gradients are not known yet"
        )
        return {}, 0
    if not teacher.has_head:
        return _measure_embedding(job, notes)
    if teacher.outputs != classes:
        notes.append(
            f"the teacher tells apart {teacher.num_classes} classes, the data has {classes}: its maps teach, its logits do not"
        )
        return {}, 0
    found = job.teacher_validation or validate_teacher(teacher, job.predict_teacher, job.data, job.config.batch_size)
    validation, logits, labels = found.metrics, found.logits, found.labels
    some = job.data.some("val", MEASURED_IMAGES)
    hints = notes_on_outputs(logits, labels, dataset.classes)

    def accuracy(data: Data, split: str) -> float:
        images = data.batches(split, job.config.batch_size).epoch(0)
        return evaluate(teacher.module, job.predict_teacher, images, classes, metrics=("accuracy",))["accuracy"]

    first = score(validation["accuracy"], some.dataset.val.labels)
    try:
        notes += check_better_than_chance(job.data, first, accuracy, np.arange(len(dataset.train)))
    except InputError as error:
        if not insists(job.config):
            raise InputError("; ".join([str(error), *hints])) from None
        notes.append(str(error))
    notes += hints
    known = job.data.some("train", MEASURED_IMAGES)
    size = job.config.batch_size
    by_labels = nearest_thumbnail_hits(known.batches("train", size).epoch(0), some.batches("val", size).epoch(0))
    note = weak_teacher_note((logits.argmax(dim=1) == labels).numpy(), by_labels, len(known.dataset.train))
    notes += [note] if note is not None else []
    predictions_teach = "teacher_logits" in job.distiller.signals
    if predictions_teach:
        note = memorised_note(accuracy(known, "train"), len(known.dataset.train), validation["accuracy"])
        notes += [note] if note is not None else []
    if found.overconfident and (predictions_teach or job.teacher_validation is not None):
        left_out = not predictions_teach
        notes.append(overconfident_note(found.confidence, validation["accuracy"], len(labels), left_out))
    if any("drawn from train" in note for note in dataset.notes):
        notes.append(
            "the teacher may have been trained on the validation images, which are drawn from train: its accuracy there flatters it"
        )
    return validation, len(some.dataset.val)


def _measure_embedding(job: Job, notes: list[str]) -> tuple[dict[str, float], int]:
    """Return the accuracy of nearest centroids on validation images of a teacher without a head, and on how many; add a note on it."""
    teacher = job.teacher
    assert teacher is not None
    classes, size = len(job.data.dataset.classes), job.config.batch_size
    count = max(CENTROID_IMAGES, CENTROID_IMAGES_A_CLASS * classes)
    some = job.data.some("val", MEASURED_IMAGES)

    def accuracy(known: Data, asked: Data, split: str) -> float:
        with mode(teacher.module, training=False):
            images = known.batches("train", size).epoch(0), asked.batches(split, size).epoch(0)
            return nearest_centroid_accuracy(job.predict_teacher, *images, classes)

    train = job.data.some("train", count)
    found = accuracy(train, some, "val")
    every, first = np.arange(len(job.data.dataset.train)), score(found, some.dataset.val.labels)
    half = selected(job.data, "train", every[::2]).some("train", count)
    notes += check_better_than_chance(job.data, first, functools.partial(accuracy, half), every[1::2])
    notes.append(
        f"the teacher has no classification layer: its embeddings teach, and its accuracy is that of the nearest of {classes} "
        f"centroids, each the mean of its class among {len(train.dataset.train):,} training images"
    )
    return {"accuracy": found}, len(some.dataset.val)


def _describe_data(job: Job) -> dict[str, Any]:
    dataset = job.data.dataset
    return {
        "name": dataset.name,
        "classes": len(dataset.classes),
        "train": len(dataset.train),
        "val": len(dataset.val),
        "test": len(dataset.test),
        "image_size": list(job.views.image_size),
        "augment": list(job.views.ops),
        "views": job.views.count,
        "left_out": list(dataset.left_out),
        "mixing": {name: alpha for name in ("mixup", "cutmix") if (alpha := getattr(job.config, name))},
    }


def _describe_cache(teacher: CachedTeacher, teachers_speed: float) -> dict[str, Any]:
    cache = teacher.cache
    return {
        "folder": str(cache.folder),
        "size_bytes": cache.size_bytes,
        "filled": cache.filled,
        "seconds_to_fill": cache.missing_rows / teachers_speed,
    }


def _describe(classifier: Classifier) -> dict[str, Any]:
    return {
        "spec": classifier.spec,
        "parameters": classifier.parameters,
        "classes": classifier.num_classes,
        "preprocessing": str(classifier.preprocessing),
    }
