"""The plan of a distillation: what it is going to do, measured on a few images, and the reasons to stop before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from angularkd.config import DistillConfig, Recipe
from angularkd.distillation import CachedTeacher, uncacheable
from angularkd.errors import InputError
from angularkd.features import Pair
from angularkd.metrics import evaluate
from angularkd.models import Classifier
from angularkd.system.modes import mode
from angularkd.training.centroids import nearest_centroid_accuracy
from angularkd.training.job import Job
from angularkd.training.measuring import (
    balance_notes,
    check_runaway,
    gradient_shares,
    seconds_with_cache,
    teacher_speed,
    training_speed,
)

MEASURED_IMAGES = 500
"""Validation images at most that the teacher is measured on: enough to see that it is the right one."""
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
        InputError: when the teacher is no better than chance on the validation split, and when a loss takes so much of the first
            gradient that the student would not learn its classes.
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
    notes += [f"{name}: {note}" for name, note in _notes_of_losses(job)]
    live_losses = uncacheable(job.distiller.losses.reductions_by_loss)
    if live_losses:
        notes.append(f"{' and '.join(live_losses)} must use the live teacher: no cache stores what they need")
    elif batch.view is None:
        notes.append("mixed images are in no cache: the teacher runs live")
    images = epochs * len(job.batches) * job.batches.batch_size
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


def above_chance(accuracy: float, num_classes: int, samples: int) -> bool:
    """Return whether an accuracy is more than two standard errors above guessing."""
    chance = 1 / num_classes
    return accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / samples)


def check_better_than_chance(accuracy: float, num_classes: int, samples: int) -> None:
    """Check that an accuracy is more than two standard errors above guessing.

    Raises:
        InputError: where it is not.
    """
    chance = 1 / num_classes
    if not above_chance(accuracy, num_classes, samples):
        raise InputError(
            f"the teacher's accuracy on the {samples} validation images is {accuracy:.1%}, no better than chance ({chance:.1%}): "
            "check its weights, its normalization and the order of its classes"
        )


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
    assert job.teacher is not None
    dataset = job.data.dataset
    classes = len(dataset.classes)
    if not job.teacher_ready:
        notes.append(
            "the teacher is fitted to the training images first: its accuracy and its gradients are not known yet"
        )
        return {}, 0
    if not job.teacher.has_head:
        return _measure_embedding(job, notes)
    if job.teacher.outputs != classes:
        notes.append(
            f"the teacher tells apart {job.teacher.num_classes} classes, the data has {classes}: its maps teach, its logits do not"
        )
        return {}, 0
    some = job.data.some("val", MEASURED_IMAGES)
    images = len(some.dataset.val)
    batches = some.batches("val", job.config.batch_size).epoch(0)
    validation = evaluate(job.teacher.module, job.predict_teacher, batches, classes)
    check_better_than_chance(validation["accuracy"], classes, images)
    if any("drawn from train" in note for note in dataset.notes):
        notes.append(
            "the teacher may have been trained on the validation images, which are drawn from train: its accuracy there flatters it"
        )
    return validation, images


def _measure_embedding(job: Job, notes: list[str]) -> tuple[dict[str, float], int]:
    """Return the accuracy of nearest centroids on validation images of a teacher without a head, and on how many; add a note on it."""
    assert job.teacher is not None
    classes, size = len(job.data.dataset.classes), job.config.batch_size
    train = job.data.some("train", max(CENTROID_IMAGES, CENTROID_IMAGES_A_CLASS * classes))
    some = job.data.some("val", MEASURED_IMAGES)
    images, known = len(some.dataset.val), len(train.dataset.train)
    with mode(job.teacher.module, training=False):
        accuracy = nearest_centroid_accuracy(
            job.predict_teacher, train.batches("train", size).epoch(0), some.batches("val", size).epoch(0), classes
        )
    check_better_than_chance(accuracy, classes, images)
    notes.append(
        f"the teacher has no classification layer: its embeddings teach, and its accuracy is that of the nearest of {classes} "
        f"centroids, each the mean of its class among {known:,} training images"
    )
    return {"accuracy": accuracy}, images


def _notes_of_losses(job: Job) -> Iterator[tuple[str, str]]:
    """Yield what losses say of the sizes at which their stages are compared."""
    sizes = [pair.size for pair in job.distiller.pairs]
    for name, loss in job.distiller.losses.losses.items():
        notes = getattr(loss, "notes", None)
        yield from ((name, note) for note in (notes(sizes) if notes is not None else []))


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
