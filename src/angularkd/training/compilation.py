"""Whether a run's step is compiled, and its compilation: where that pays, logged, tried on a batch, undone where it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from angularkd.system.compiling import options_for
from angularkd.system.logs import logging_from
from angularkd.system.memory import use_huge_pages
from angularkd.system.modes import restored, seeded
from angularkd.system.ranks import together
from angularkd.training.job import Job
from angularkd.training.progress import duration
from angularkd.types import Batch

COMPILERS_LOGGER = "torch.utils.cpp_extension"
"""It says that there is no CUDA wherever there is a compiler for it."""
PAYS_FROM_SECONDS = 600.0
"""Expected length of a run from which on it is compiled: that takes a minute or two, and saves a quarter and more."""
EAGER_FLOPS = {"cpu": 2.5e10, "cuda": 1e13}
"""Floating point operations a second that an uncompiled step does at least, of a processor's thread and of a GPU; others are not
compiled for. Set down rather than measured, so that equal runs decide alike."""
EAGER_STEP_SECONDS = {"cpu": 0.0, "cuda": 0.01}
"""Least duration of an uncompiled step: the time to start its kernels."""

Log = Callable[[str], None]


def compile_step(job: Job, log: Log) -> bool:
    """Compile the training step if the job's configuration says so, or leaves it open and the run is long enough.

    Where compilation fails, for want of a compiler or of support for what a model does, everything runs as it is written.

    Args:
        job: the run.
        log: is given what is done, in one line each.

    Returns:
        Whether the step is compiled.
    """

    def trial(batch: Batch) -> None:
        if job.distiller.teacher is not None and job.cached is not None and job.cached.cache.filled < 1:
            job.distiller.teacher(batch.images)
        job.distiller(batch.images, batch.labels, batch.indices, batch.view).total.backward()

    return _compile(job, training_seconds, trial, log)


def compile_teacher(job: Job, log: Log) -> bool:
    """Compile the teacher alone, for filling its cache; arguments and result are those of `compile_step`."""

    def trial(batch: Batch) -> None:
        assert job.distiller.teacher is not None
        job.distiller.teacher(batch.images)

    if not _teacher_may_be(job):
        if job.config.compile == "always":
            log(
                "note: the teacher is not compiled: in half precision it would round otherwise than in a run that is not"
            )
        return False
    return _compile(job, filling_seconds, trial, log)


def training_seconds(job: Job) -> float | None:
    """Return how long the run would take uncompiled, by its floating point operations and its steps; None where these are not known."""
    student = job.student.trace.flops if job.student.trace is not None else None
    if student is None:
        return None
    an_image = 3 * student  # backward takes twice what forward does
    if job.teacher is not None and job.distiller.needs_teacher and job.cached is None:
        teacher = job.teacher.trace.flops if job.teacher.trace is not None else None
        if teacher is None:
            return None
        an_image += teacher
    steps = job.config.epochs * len(job.batches)
    return _seconds(job, steps, steps * job.batches.batch_size * an_image)


def filling_seconds(job: Job) -> float | None:
    """Return how long the teacher would take uncompiled for what its cache lacks; None where its operations are not known."""
    assert job.teacher is not None and job.cached is not None
    teacher = job.teacher.trace.flops if job.teacher.trace is not None else None
    images = job.cached.cache.missing_rows
    return None if teacher is None else _seconds(job, images / job.batches.batch_size, images * teacher)


def _compile(job: Job, seconds: Callable[[Job], float | None], trial: Callable[[Batch], None], log: Log) -> bool:
    if not _pays(job, seconds, log):
        return False
    log("compiling, which takes a minute or two (`compile=never` leaves it out)")
    batch, started = next(job.batches.epoch(0)), time.perf_counter()
    try:
        with logging_from(logging.ERROR, COMPILERS_LOGGER):
            job.distiller.compile(teacher=_teacher_may_be(job), **options_for(job.fabric.device))
            with seeded(job.config.seed), restored(job.distiller), job.fabric.autocast():
                trial(batch)
    except Exception as error:  # whatever a compiler may say to somebody's model
        job.distiller.uncompile()
        log(f"note: cannot compile, so all runs as it is ({_reason(error)})")
        return False
    if job.fabric.device.type == "cpu":
        use_huge_pages()  # the trial has brought the heap to its size
    log(f"compiled in {duration(time.perf_counter() - started)}")
    return True


def _pays(job: Job, seconds: Callable[[Job], float | None], log: Log) -> bool:
    if together():
        if job.config.compile == "always":
            log("note: steps of several processes run as they are written, `compile` or not")
        return False
    if job.config.compile != "auto":
        return job.config.compile == "always"
    if job.fabric.device.type not in EAGER_FLOPS:
        return False
    expected = seconds(job)
    if expected is None:
        log(
            "note: whether compiling pays is not known, for the operations of a network cannot be counted: all runs as it is"
        )
        return False
    return expected >= PAYS_FROM_SECONDS


def _teacher_may_be(job: Job) -> bool:
    """Return False where a cache is filled in half precision: compiled code rounds otherwise, and a cache must hold one kind of answer."""
    return job.cached is None or job.cached.about.precision == "32-true"


def _reason(error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"{type(error).__name__}: {reason[:200]}"


def _seconds(job: Job, steps: float, operations: float) -> float:
    device = job.fabric.device.type
    speed = EAGER_FLOPS[device] * (torch.get_num_threads() if device == "cpu" else 1)
    return max(operations / speed, steps * EAGER_STEP_SECONDS[device])
