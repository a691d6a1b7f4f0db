"""Compiling a run's step: where that pays, announced, tried out on a batch, and left where it cannot be done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from angularkd.models.classifier import Classifier
from angularkd.system.compiling import options_for
from angularkd.system.memory import use_huge_pages
from angularkd.system.modes import mode
from angularkd.training.build import Job
from angularkd.training.plan import untouched
from angularkd.training.progress import duration
from angularkd.types import Batch

PAYS_FROM_SECONDS = 600.0
"""Expected length of a run from which on it is compiled: that takes a minute or two, and saves a quarter and more."""
EAGER_FLOPS = {"cpu": 2.5e10, "cuda": 1e13}
"""Floating point operations a second that an uncompiled step does at least, of a processor's thread and of a GPU; others are not
compiled for. Set down rather than measured, so that equal runs decide alike."""
EAGER_STEP_SECONDS = {"cpu": 0.0, "cuda": 0.01}
"""Least duration of an uncompiled step: the time to start its kernels."""


def compile_step(job: Job, tell: Callable[[str], None]) -> bool:
    """Compile the training step if the job's configuration says so, or leaves it open and the run is long enough.

    tell: is given what is done, in one line each. Where compilation fails, for want of a compiler or of support for what a
    model does, everything runs as it is written.
    """

    def trial(batch: Batch) -> None:
        if job.distiller.teacher is not None and job.cache is not None and job.cache.filled < 1:
            job.distiller.teacher(batch.images)
        job.distiller(batch.images, batch.labels, batch.indices, batch.view).total.backward()

    return _compile(job, training_seconds, trial, tell)


def compile_teacher(job: Job, tell: Callable[[str], None]) -> bool:
    """The same of the teacher alone, for filling its cache."""

    def trial(batch: Batch) -> None:
        assert job.distiller.teacher is not None
        job.distiller.teacher(batch.images)

    if not _teacher_may_be(job):
        if job.config.compile == "always":
            tell(
                "note: the teacher is not compiled: in half precision it would round otherwise than in a run that is not"
            )
        return False
    return _compile(job, filling_seconds, trial, tell)


def training_seconds(job: Job) -> float:
    """How long the run would take uncompiled, by its floating point operations and its steps."""
    images = _example(job)
    an_image = 3 * flops(job.student, images)  # backward takes twice what forward does
    if job.teacher is not None and job.distiller.needs_teacher and job.cache is None:
        an_image += flops(job.teacher, images)
    steps = job.config.epochs * len(job.batches)
    return _seconds(job, steps, steps * job.batches.global_batch_size * an_image)


def filling_seconds(job: Job) -> float:
    """How long the teacher would take uncompiled for what its cache lacks."""
    assert job.teacher is not None and job.cache is not None
    images = job.cache.missing_rows
    return _seconds(job, images / job.batches.global_batch_size, images * flops(job.teacher, _example(job)))


def flops(classifier: Classifier, images: torch.Tensor) -> int:
    """Floating point operations of a forward."""
    with mode(classifier.module, training=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier.predict(images)
    return counter.get_total_flops()


def _compile(
    job: Job, seconds: Callable[[Job], float], trial: Callable[[Batch], None], tell: Callable[[str], None]
) -> bool:
    try:
        if not _pays(job, seconds):
            return False
    except Exception as error:  # somebody's model need not bear having its operations counted
        tell(f"note: whether compiling pays cannot be told, so all runs as it is ({_said(error)})")
        return False
    tell("compiling, which takes a minute or two (--compile never leaves it out)")
    batch, started = next(job.batches.epoch(0)), time.perf_counter()
    # it says that there is no CUDA to everybody who has a compiler for it
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        job.distiller.compile(teacher=_teacher_may_be(job), **options_for(job.fabric.device))
        with untouched(job.distiller), job.fabric.autocast():
            trial(batch)
    except Exception as error:  # whatever a compiler may say to somebody's model
        job.distiller.uncompile()
        tell(f"note: cannot compile, so all runs as it is ({_said(error)})")
        return False
    if job.fabric.device.type == "cpu":
        use_huge_pages()  # the trial has brought the heap to its size
    tell(f"compiled in {duration(time.perf_counter() - started)}")
    return True


def _pays(job: Job, seconds: Callable[[Job], float]) -> bool:
    if job.config.compile != "auto":
        return job.config.compile == "always"
    return job.fabric.device.type in EAGER_FLOPS and seconds(job) >= PAYS_FROM_SECONDS


def _teacher_may_be(job: Job) -> bool:
    """Not where a cache is filled in half precision: compiled it rounds otherwise, and a cache must hold one kind of answer."""
    return job.cache is None or job.config.precision == "32-true"


def _said(error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"{type(error).__name__}: {reason[:200]}"


def _seconds(job: Job, steps: float, operations: float) -> float:
    device = job.fabric.device.type
    speed = EAGER_FLOPS[device] * (torch.get_num_threads() if device == "cpu" else 1)
    return max(operations / speed, steps * EAGER_STEP_SECONDS[device])


def _example(job: Job) -> torch.Tensor:
    return torch.zeros(1, 3, *job.views.image_size, device=job.fabric.device)
