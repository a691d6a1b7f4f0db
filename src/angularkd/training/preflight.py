"""Makes the plan of a built job: evaluates the teacher, measures speed and gradients, and stops where going on is pointless."""

from __future__ import annotations

from typing import Any

from angularkd.distillation.teacher_cache import TeacherCache
from angularkd.metrics.evaluate import evaluate
from angularkd.models.opening import Classifier
from angularkd.training.build import Job
from angularkd.training.plan import (
    LOOKED_AT,
    Plan,
    check_better_than_chance,
    describe_pair,
    gradient_shares,
    overweight,
    seconds_with_cache,
    teacher_speed,
    training_speed,
)


def make_plan(job: Job, epochs: int) -> Plan:
    """The plan of a distillation. The student, its statistics and the random state are left as they were.

    Raises InputError when the teacher is no better than chance on the validation split.
    """
    assert job.teacher is not None
    dataset = job.data.dataset
    classes = len(dataset.classes)
    notes = job.notes
    validation: dict[str, float] = {}
    looked_at = 0
    if not job.teacher_ready:
        notes.append(
            "the teacher is fitted to the training images first: its accuracy and its gradients are not known yet"
        )
    elif job.teacher.outputs == classes:
        some = job.data.some("val", LOOKED_AT)
        looked_at = len(some.dataset.val)
        batches = some.batches("val", job.config.batch_size).epoch(0)
        validation = evaluate(job.teacher.module, job.predict_teacher, batches, classes)
        check_better_than_chance(validation["accuracy"], classes, looked_at)
    else:
        notes.append(
            f"the teacher tells apart {job.teacher.num_classes} classes, the data has {classes}: its maps teach, its logits do not"
        )
    if validation and any("drawn from train" in note for note in dataset.notes):
        notes.append(
            "the teacher may have been trained on the validation images, which are drawn from train: its accuracy there flatters it"
        )
    batch = next(job.batches.epoch(0))
    with job.fabric.autocast():
        shares = gradient_shares(job.distiller, batch)
        speed = training_speed(job.distiller, batch)
        teachers_speed = teacher_speed(job.distiller, batch) if job.cache is not None else None
    notes += overweight(shares, job.distiller.losses.weights)
    if job.distiller.live_terms:
        notes.append(
            f"{' and '.join(job.distiller.live_terms)} must look at the live teacher: no cache keeps what they need"
        )
    elif batch.view is None:
        notes.append("mixed images are in no cache: the teacher runs live")
    images = epochs * len(job.batches) * job.batches.global_batch_size
    seconds, cache = images / speed, None
    if job.cache is not None and teachers_speed is not None:
        seconds = seconds_with_cache(images, speed, teachers_speed, job.cache.missing_rows)
        cache = _describe_cache(job.cache, teachers_speed)
    return Plan(
        teacher=_describe(job.teacher),
        student=_describe(job.student),
        teacher_validation=validation,
        teacher_images=looked_at,
        data={
            "name": dataset.name,
            "classes": classes,
            "train": len(dataset.train),
            "val": len(dataset.val),
            "test": len(dataset.test),
            "image_size": list(job.views.image_size),
            "augment": list(job.views.ops),
            "views": job.views.count,
            "left_out": list(dataset.left_out),
            "mixing": {name: alpha for name in ("mixup", "cutmix") if (alpha := getattr(job.config, name))},
        },
        pairs=[describe_pair(pair) for pair in job.distiller.pairs],
        weights=job.distiller.losses.weights,
        gradient_share=shares,
        images_per_second=speed,
        seconds_expected=seconds,
        cache=cache,
        notes=notes,
    )


def _describe_cache(cache: TeacherCache, teachers_speed: float) -> dict[str, Any]:
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
