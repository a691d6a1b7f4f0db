"""One run, from its configuration to its finished folder: what the commands, and whoever builds on them, call."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from lightning_fabric.loggers.logger import Logger

from angularkd.config import DistillConfig, Recipe, TrainConfig, parse_interval
from angularkd.data import DataSet
from angularkd.distillation import check_folder
from angularkd.errors import InputError
from angularkd.models import Traces, fingerprint, save_weights
from angularkd.runs import Run, RunFolder
from angularkd.system.environment import hardware, versions
from angularkd.system.modes import seeded
from angularkd.system.processes import check_parts
from angularkd.system.ranks import first_here, joined, number, once, together
from angularkd.system.stopping import Stop
from angularkd.training.build import build_distillation, build_training
from angularkd.training.build_data import open_dataset
from angularkd.training.cadence import Cadence
from angularkd.training.companions import Beside, baseline_options, teacher_options
from angularkd.training.comparison import compare_with_baseline, little_to_teach, size_and_speed
from angularkd.training.compilation import compile_step
from angularkd.training.job import Job
from angularkd.training.joining import check_processes, claimed, draw_apart, heard, held, with_filled_cache, with_parts
from angularkd.training.logging import check_loggers, logged
from angularkd.training.loop import Training, fit
from angularkd.training.modules import Modules
from angularkd.training.observing import RunObserver
from angularkd.training.optimisation import steps_an_epoch
from angularkd.training.plan import Plan, make_plan
from angularkd.training.progress import Reporter
from angularkd.training.replica import Replica
from angularkd.training.results import (
    LAST,
    SELECTED,
    final_results,
    fitted_temperatures,
    save_best,
    student_metadata,
)
from angularkd.training.resuming import (
    check_started,
    checkpointer_of,
    going_on,
    with_stored_weights,
    with_teachers_recipe,
)
from angularkd.training.state import TrainingState

Finished = Callable[[Job, Run], None]

LONGEST_SHORT_BYTES = 70


def run_training(
    config: TrainConfig,
    reporter: Reporter | None = None,
    modules: Modules = MappingProxyType({}),
    dataset: DataSet | None = None,
    stop: Stop | None = None,
    finished: Finished | None = None,
    loggers: Sequence[Logger] = (),
) -> Run:
    """Train a classifier.

    Args:
        config: what to train, and how.
        reporter: to whom the run reports; None for nobody.
        modules: networks that were passed as they are, by role; what is trained is trained in place.
        dataset: the images, where they are not simply those that the configuration names; without any in its test split, nothing is
            evaluated at the end.
        stop: asks it to end, with a checkpoint from which it goes on; None where nobody does.
        finished: called with the parts of the run once it is finished, while its folder is held.
        loggers: Lightning Fabric's, to which the numbers of each epoch are logged, beside that of `tensorboard`.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    check_loggers(config)
    with joined(config.device):
        check_processes(config)
        # before the folder of the run is made, which may lie in the images'
        dataset = dataset or first_here(partial(open_dataset, config))
        with claimed(config, _folder(config, _short(config.model))) as (config, folder):
            config = going_on(config, folder, "model")
            with seeded(config.seed):
                job = build_training(config, dataset, modules=modules)
                logging = logged(heard(reporter), config, folder, loggers)
                return _followed(run(job, folder, logging, stop), job, finished)


def run_distillation(
    config: DistillConfig,
    reporter: Reporter | None = None,
    modules: Modules = MappingProxyType({}),
    dataset: DataSet | None = None,
    stop: Stop | None = None,
    finished: Finished | None = None,
    loggers: Sequence[Logger] = (),
) -> Run:
    """Distil a teacher into a student, after fitting the teacher to the data where `teacher_train` asks for that.

    Arguments, result and errors are those of `run_training`.
    """
    check_loggers(config)
    if config.cache is not None:
        check_folder(Path(config.cache))
    trained = ("student", "teacher") if config.teacher_train is not None else ("student",)
    name = f"{_short(config.student)}-from-{_short(config.teacher)}"
    with joined(config.device):
        check_processes(config)
        dataset, reporter = dataset or first_here(partial(open_dataset, config)), heard(reporter)
        with claimed(config, _folder(config, name)) as (config, folder):
            config = going_on(with_stored_weights(config, folder), folder, *trained)
            traces, fitted = Traces(), None
            if config.teacher_train is not None:
                fitted = _fit_teacher(config, dataset, traces, folder.teacher, reporter, modules, stop)
                config = with_teachers_recipe(config, folder.teacher)
            with seeded(config.seed):
                job = build_distillation(config, dataset, traces, fitted, modules)
                baseline = partial(_train_baseline, job, dataset, folder.baseline, reporter, modules, stop)
                logging = logged(reporter, config, folder, loggers)
                done = run(job, folder, logging, stop, first=baseline if config.baseline else None)
                return _followed(done, job, finished)


def plan_distillation(config: DistillConfig, modules: Modules = MappingProxyType({})) -> Plan:
    """Return what `run_distillation` would pair, check and spend; nothing is written."""
    check_parts(config.batch_size, config.devices)
    dataset = open_dataset(config)
    with seeded(config.seed):
        job = build_distillation(config, dataset, modules=modules)
        plan = make_plan(job, config.epochs)
    job.distiller.close()
    return plan


def run(
    job: Job,
    folder: RunFolder,
    reporter: Reporter,
    stop: Stop | None = None,
    *,
    more_follows: bool = False,
    first: Callable[[Plan | None], None] | None = None,
) -> Run:
    """Train what was built, and leave the files of a run in its folder.

    Args:
        job: the parts of the run, built with its seed set.
        folder: claimed for it.
        reporter: to whom the run reports.
        stop: asks it to end.
        more_follows: whether another run of this command will train on the images that are decoded.
        first: trains the student without its teacher, once it is known that the run can begin.
    """
    config, started = job.config, time.perf_counter()
    checkpointer = checkpointer_of(job, folder)
    resumed = config.resume and bool(folder.checkpoints)
    if config.resume and not resumed and folder.started:
        check_started(job, folder)

    plan = once(partial(make_plan, job, config.epochs)) if job.teacher is not None and not resumed else None
    state = checkpointer.load(reporter.log) if resumed else TrainingState()
    once(partial(_begin_files, job, folder, state if resumed else None, plan))
    if plan is not None:
        reporter.plan(plan)
    else:
        for note in job.notes:
            reporter.log(f"note: {note}")

    if first is not None:
        begun = time.perf_counter()
        first(plan)
        started += time.perf_counter() - begun
    with_filled_cache(job, reporter.log)
    if not more_follows:
        job.data.release()
    shared = with_parts(job)
    compiled = compile_step(shared, reporter.log)
    if not resumed:
        draw_apart(config.seed)
    teacher_before = fingerprint(job.teacher.module) if job.teacher is not None else None
    trained = Replica(job.distiller) if together() else job.distiller
    distiller, optimizer = job.fabric.setup(trained, job.optimizer, move_to_device=False)
    training = Training(
        job.fabric,
        distiller,
        optimizer,
        job.scheduler,
        shared.batches,
        config.epochs,
        config.clip_norm,
        job.average,
        config.accumulate,
        config.on_nonfinite == "skip",
        Cadence(*parse_interval(config.checkpoint_every)),
        stop or Stop(),
    )
    seconds_before = state.seconds
    reporter.begin(config.epochs, steps_an_epoch(len(job.batches), config.accumulate), state.epoch)
    try:
        fit(training, state, RunObserver(job, folder, checkpointer, reporter, started - seconds_before))
    finally:
        reporter.end()
        if job.cached is not None:
            job.cached.cache.close()

    temperatures = once(partial(_end_files, job, folder, state))
    results = final_results(job, state, temperatures)
    results["seconds"] = seconds_before + time.perf_counter() - started
    results |= {"compiled": compiled, "precision": config.precision, "versions": versions(), "hardware": hardware()}
    if job.teacher is not None and results["metrics"]:
        results |= once(partial(size_and_speed, job))
        if first is not None:
            found = once(partial(compare_with_baseline, job, folder.baseline))
            results = {**results, **found, "metrics": {**results["metrics"], **found["metrics"]}}
    if job.teacher is not None:
        results["teacher_fingerprint"] = fingerprint(job.teacher.module)
    job.distiller.close()
    once(partial(folder.write_results, results))
    reporter.results(folder.path, job.data.dataset.name, results)
    if teacher_before is not None and results["teacher_fingerprint"] != teacher_before:
        raise InputError(
            f"the teacher changed during the run, whose results in {folder.path} are therefore not of one teacher: let its forward change "
            "no buffer in evaluation mode"
        )
    return Run(folder.path, results)


def _begin_files(job: Job, folder: RunFolder, resumed: TrainingState | None, plan: Plan | None) -> None:
    """Write what is known before the first step, and of a run that goes on what its checkpoint knows better than the folder."""
    if resumed is not None:
        folder.write_metrics(resumed.history)
        if resumed.best_weights:
            save_best(job, folder, resumed)
    if job.cached is not None:
        job.cached.cache.reserve()
    folder.write_config(job.config.dump())
    if plan is not None:
        folder.write_plan(plan.as_dict())


def _end_files(job: Job, folder: RunFolder, state: TrainingState) -> dict[str, float]:
    """Write the student's weights, and return the temperatures that calibrate them."""
    folder.check_held()
    temperatures = fitted_temperatures(job, state)
    save_weights(folder.student, job.result.module, student_metadata(job, temperatures.get(LAST)))
    save_best(job, folder, state, temperatures.get(SELECTED))
    return temperatures


def _followed(done: Run, job: Job, finished: Finished | None) -> Run:
    """Return a finished run, once whoever wants to know of it does."""
    if finished is not None and number() == 0:
        finished(job, done)
    return done


def _fit_teacher(
    config: DistillConfig,
    dataset: DataSet,
    traces: Traces,
    folder: RunFolder,
    reporter: Reporter,
    modules: Modules,
    stop: Stop | None,
) -> str:
    """Fit the teacher to the data in a run of its own, or go on with it; return that run's folder."""
    assert config.teacher_train is not None
    if not folder.student.exists():
        with seeded(config.seed):  # what cannot be distilled afterwards is not worth fitting a teacher for
            job = build_distillation(config, dataset, traces, modules=modules)
            job.distiller.close()
        config = config.model_copy(update={"precision": job.config.precision})  # one for both, which repeats the run
    reporter.log(f"the teacher is fitted first, in {folder.path}")
    teacher_config = going_on(teacher_options(config, folder), folder, "model")
    fitted = {"model": modules["teacher"]} if "teacher" in modules else {}
    with held(folder, teacher_config.resume) as folder, seeded(config.seed):
        job = build_training(teacher_config, dataset, traces, fitted)
        return str(run(job, folder, Beside(reporter, "the fit of the teacher"), stop, more_follows=True).folder)


def _train_baseline(
    job: Job,
    dataset: DataSet,
    folder: RunFolder,
    reporter: Reporter,
    modules: Modules,
    stop: Stop | None,
    plan: Plan | None,
) -> None:
    """Train the student without its teacher in a run of its own, or go on with it, unless that is done."""
    if once(folder.results.exists):
        return
    assert isinstance(job.config, DistillConfig)
    config = going_on(baseline_options(job.config, folder), folder, "model")
    if "student" in modules and job.config.resume and not folder.checkpoints:
        raise InputError(
            "`baseline` trains the student as it was at first, and a module that is resumed was trained: give it with a new `out`"
        )
    alone = {"model": copy.deepcopy(modules["student"])} if "student" in modules else {}
    reporter.log(f"the student is trained without the teacher first, in {folder.path}")
    with held(folder, config.resume) as folder, seeded(config.seed):
        beside = Beside(reporter, "the student without its teacher", opening_notes=False)
        results = run(build_training(config, dataset, modules=alone), folder, beside, stop, more_follows=True).results
    if plan is not None and (note := little_to_teach(plan, results)) is not None:
        reporter.log(f"note: {note}")


def _folder(config: Recipe, name: str) -> RunFolder:
    """Return the run's folder."""
    default = Path("runs") / f"{name}-on-{_short(config.data)}-seed{config.seed}"
    return RunFolder(Path(config.out) if config.out is not None else default)


def _short(spec: str) -> str:
    """Return a SPEC as part of a folder's name, short enough that three of them are one."""
    name = spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return name.encode(errors="surrogateescape")[:LONGEST_SHORT_BYTES].decode(errors="ignore")
