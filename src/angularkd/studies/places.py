"""Where runs go: one after another in this process, in processes of this machine, or on Ray. The numbers are the same everywhere.

A place takes orders while it has room, and gives them back with what came of them as they are done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from angularkd.config import StudyConfig
from angularkd.studies.cells import Task
from angularkd.studies.running import carry_out
from angularkd.system.extras import import_extra
from angularkd.system.stopping import Stop

Outcome = dict[str, Any]


class Place(Protocol):
    """Somewhere runs are done."""

    @property
    def room(self) -> int:
        """Return how many runs are done at once."""
        ...

    def submit(self, task: Task) -> None:
        """Take a run on."""
        ...

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait until a run is done, and return all that are."""
        ...


class Here:
    """This process, one run after another.

    Args:
        study: the folder of the study.
        stop: asks the run to end; None where nobody does.
    """

    room = 1

    def __init__(self, study: Path, stop: Stop | None = None) -> None:
        self.study = study
        self.stop = stop
        self._waiting: list[Task] = []

    def submit(self, task: Task) -> None:
        """Take a run on; it is done when it is waited for."""
        self._waiting.append(task)

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Do the runs."""
        waiting, self._waiting = self._waiting, []
        return [(task, carry_out(task, self.study, Path.cwd(), self.stop)) for task in waiting]


class Processes:
    """Processes of this machine, which are started anew where one is killed.

    Args:
        study: the folder of the study.
        count: how many.
    """

    def __init__(self, study: Path, count: int) -> None:
        self.study = study
        self.room = count
        self._pool = self._new_pool()
        self._running: dict[Future[Outcome], Task] = {}

    def submit(self, task: Task) -> None:
        """Hand a run to a process that has none."""
        self._running[self._pool.submit(carry_out, task, self.study, Path.cwd())] = task

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait for a process, and return what it has done."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        found, broken = [], False
        for future in done:
            task = self._running.pop(future)
            error = future.exception()
            broken |= isinstance(error, BrokenProcessPool)
            found.append((task, future.result() if error is None else lost(task, error)))
        if broken:
            found += [(task, lost(task, None)) for task in self._running.values()]
            self._running = {}
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = self._new_pool()
        return found

    def close(self) -> None:
        """End the processes, also those that are at work: what they have done up to their last checkpoints is there."""
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.room, multiprocessing.get_context("spawn"), initializer=_ends_with_its_study)


class Ray:
    """A Ray cluster: the one that RAY_ADDRESS names or that runs on this machine, else one that is started here for the study.

    Args:
        study: the folder of the study, which every machine of the cluster must see.
        threads: of a run, which count as CPUs.
        gpus: share of a GPU that a run takes; None for a whole one where there are any.
    """

    def __init__(self, study: Path, threads: int, gpus: float | None) -> None:
        self.study = study
        self._ray: Any = import_extra("ray", "ray", "`on=ray`")
        self._ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error", include_dashboard=False)
        has = self._ray.cluster_resources()
        share = gpus if gpus is not None else float(has.get("GPU", 0) > 0)
        self.room = max(1, int(has.get("CPU", 1) // threads))
        if share:
            self.room = max(1, min(self.room, int(has.get("GPU", 0) / share)))
        self._remote = self._ray.remote(num_cpus=threads, num_gpus=share, max_retries=0)(carry_out)
        self._running: dict[Any, Task] = {}

    def submit(self, task: Task) -> None:
        """Hand a run to the cluster."""
        self._running[self._remote.remote(task, self.study, Path.cwd())] = task

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait for a run, and return what came of it."""
        (done,), _ = self._ray.wait(list(self._running), num_returns=1)
        task = self._running.pop(done)
        try:
            return [(task, self._ray.get(done))]
        except self._ray.exceptions.RayError as error:
            return [(task, lost(task, error))]

    def close(self) -> None:
        """Leave the cluster, and end it where it was started for the study."""
        self._ray.shutdown()


@contextmanager
def opened(config: StudyConfig, study: Path, threads: int, stop: Stop | None = None) -> Iterator[Place]:
    """Yield the place that the options of a study ask for, and close it afterwards.

    Raises:
        InputError: where Ray is asked for and not installed.
    """
    if config.on == "here" and config.processes == 1:
        yield Here(study, stop)
        return
    place = Ray(study, threads, config.gpus) if config.on == "ray" else Processes(study, config.processes)
    try:
        yield place
    finally:
        place.close()


def _ends_with_its_study() -> None:
    """Let the study answer Ctrl-C for this process, and end it when the study ends, however it does: it holds the folders of runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    study = multiprocessing.parent_process()
    assert study is not None

    def end() -> None:
        connection.wait([study.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def lost(task: Task, error: BaseException | None) -> Outcome:
    """Return the outcome of a run whose process ended before it was done; its checkpoints are there for the next call."""
    why = f" ({type(error).__name__})" if error is not None else ""
    failed = {
        "run": task.run,
        "status": "failed",
        "error": f"its process was killed{why}: memory may not suffice for so many at once",
    }
    return {**failed, "configuration": dict(task.options), "results": {}, "validation": {}, "seconds": None}
