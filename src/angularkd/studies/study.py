"""A study from its file to its table: what is done already is read, what is missing is run, each line is written as it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from angularkd.config import Protocol, StudyConfig
from angularkd.errors import InputError
from angularkd.studies.lines import Line, append_line, place_of, read_lines
from angularkd.studies.places import Place, opened
from angularkd.studies.planning import Planner
from angularkd.studies.progress import SilentStudy, StudyReporter
from angularkd.studies.schedule import Schedule
from angularkd.studies.summary import Row, summarise
from angularkd.studies.table import table_text
from angularkd.system.files import check_writable, write_text
from angularkd.system.locks import Lock
from angularkd.system.plain_yaml import write_yaml
from angularkd.system.stopping import Stop

RESULTS, STUDY, LOCK = "results.jsonl", "study.yaml", ".lock"
"""Files in the folder of a study."""


@dataclass(frozen=True)
class Study:
    """What is known of a study.

    Attributes:
        folder: of the study; None for a table that was made from files of results.
        cells: a line for each cell that was run, as `read_lines` returns them.
        left: how many cells have yet to be run.
    """

    folder: Path | None
    cells: list[Line]
    left: int = 0

    @property
    def rows(self) -> list[Row]:
        """Return the rows of the table."""
        return summarise(self.cells)

    @property
    def failed(self) -> list[Line]:
        """Return the cells that failed and are not finished yet."""
        return [line for line in self.cells if line["status"] == "failed"]

    def table(self, form: str = "markdown") -> str:
        """Return the table as "markdown", "csv" or "latex"."""
        return table_text(self.rows, form)


def run_study(
    config: StudyConfig, protocol: Protocol, name: str, reporter: StudyReporter | None = None, stop: Stop | None = None
) -> Study:
    """Run what is missing of a study.

    Args:
        config: the options of the command.
        protocol: what its file holds.
        name: of the study, and of its folder where the options name none.
        reporter: to whom it reports; None for nobody.
        stop: asks it to end, with a checkpoint of the run from which it goes on; None where nobody does.

    Returns:
        The study, with whatever was done before.

    Raises:
        InputError: for options that cannot be, before anything is run; where another process works in the folder, and where it holds
            results of another configuration.
    """
    folder = Path(config.out if config.out is not None else Path("studies") / name).absolute()
    planner = Planner(protocol, config.trust)
    Schedule(planner, {}, name)  # what cannot be is found before anything is written
    with _held(folder):
        known = read_lines(folder / RESULTS) if (folder / RESULTS).exists() else []
        schedule = Schedule(planner, {line["cell"]: line for line in known if line["status"] == "finished"}, name)
        _check_configuration(folder, schedule, known)
        write_text(folder / STUDY, write_yaml(protocol.model_dump(mode="json", exclude_unset=True)))
        with opened(config, folder, protocol.threads, stop) as place:
            _run(schedule, place, folder, reporter or SilentStudy(), config.budget_seconds)
        return Study(folder, schedule.lines(known), schedule.left)


def study_of(files: Sequence[Path]) -> Study:
    """Return the study whose results lie in files, merged.

    Raises:
        InputError: as `read_lines` does.
    """
    return Study(None, read_lines(*files))


def _run(schedule: Schedule, place: Place, folder: Path, reporter: StudyReporter, budget_seconds: float | None) -> None:
    """Run the cells until all are done; or until the budget is spent, and what was begun is done."""
    started = time.perf_counter()
    reporter.begin(schedule.total - schedule.left, schedule.total)
    try:
        while True:
            while schedule.running < place.room and not _spent(started, budget_seconds):
                task = schedule.begin()
                if task is None:
                    break
                place.submit(task)
            if not schedule.running:
                return
            for task, outcome in place.finished():
                for line in schedule.record(task, outcome):
                    append_line(folder / RESULTS, line)
                    done = schedule.total - schedule.left
                    reporter.cell(line, done, schedule.total, schedule.seconds_left(place.room))
    finally:
        reporter.end()


def _spent(started: float, budget_seconds: float | None) -> bool:
    return budget_seconds is not None and time.perf_counter() - started >= budget_seconds


def _check_configuration(folder: Path, schedule: Schedule, known: Sequence[Line]) -> None:
    """Raise InputError where the folder holds results of the places of these cells by another configuration."""
    places = {place_of(line): line for line in known if line["status"] == "finished"}
    for cell in schedule.plan.cells:
        stored = places.get(place_of(cell.place))
        if stored is None or stored["cell"] == cell.id:
            continue
        asked = cell.task.config().model_dump(mode="json", include=set(cell.task.options) - {"loss", "teacher"})
        names = [name for name, value in asked.items() if stored["configuration"].get(name) != value]
        raise InputError(
            f"{folder} holds results of another configuration: {cell.pair}, {cell.objective}, differs in "
            f"{', '.join(names) or 'its losses, its teacher or the contents of a file'}: give another `out`, or another name"
        )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder of a study, so that no other process works in it."""
    check_writable(folder, "out")
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / LOCK)
    if not lock.acquire():
        raise InputError(
            f"another process works on the study in {folder}: wait until it is done, or give another `out`"
        )
    try:
        yield
    finally:
        lock.release()
