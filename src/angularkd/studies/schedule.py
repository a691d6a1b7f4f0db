"""The order of a study's runs: which can begin, what follows from those that are done, and how long the rest may take."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from angularkd.studies.cells import Cell, Task
from angularkd.studies.lines import Line
from angularkd.studies.planning import Planner


class Schedule:
    """The cells of a study on their way to be done.

    Args:
        planner: knows the cells.
        finished: lines of those that are finished, by cell.
        study: the study's name, for new lines.
    """

    def __init__(self, planner: Planner, finished: Mapping[str, Line], study: str) -> None:
        self.planner = planner
        self.study = study
        self.done: dict[str, Line] = dict(finished)
        self.plan = planner.plan(self.done)
        self._running: dict[str, Task] = {}

    @property
    def total(self) -> int:
        """Return how many cells there are, with those that follow once settings are chosen."""
        return len(self.plan.cells) + self.plan.undecided

    @property
    def left(self) -> int:
        """Return how many cells are neither finished nor have failed in this call."""
        return self.total - sum(cell.id in self.done for cell in self.plan.cells)

    @property
    def running(self) -> int:
        """Return how many runs are being done."""
        return len(self._running)

    def begin(self) -> Task | None:
        """Return the next run that can begin, which is being done from here on; None where none can."""
        busy = {task.lane for task in self._running.values()} - {None}
        for cell in self.plan.cells:
            task = cell.task
            if cell.id in self.done or task.run in self._running or task.lane in busy or not self._has_teacher(task):
                continue
            self._running[task.run] = task
            return task
        return None

    def record(self, task: Task, outcome: Mapping[str, Any]) -> list[Line]:
        """Take in what came of a run.

        Returns:
            The new lines: a line for each cell that it fills, and where it was to make a teacher and failed, for each that needs it.
        """
        del self._running[task.run]
        lines = [
            self._line(cell, outcome)
            for cell in self.plan.cells
            if cell.task.run == task.run and cell.id not in self.done
        ]
        if outcome["status"] == "failed":
            why = {**outcome, "error": f"its teacher failed: {outcome['error']}"}
            lines += [
                self._line(cell, {**why, "run": cell.task.run, "configuration": dict(cell.task.options)})
                for cell in self.plan.cells
                if cell.task.teacher is not None and cell.task.teacher.run == task.run and cell.id not in self.done
            ]
        self.done.update({line["cell"]: line for line in lines})
        if any(line["kind"] == "selection" for line in lines):
            self.plan = self.planner.plan(self.done)
        return lines

    def seconds_left(self, at_once: int) -> float:
        """Return how long the rest may take, by how long runs like them took, so many at once."""
        taken: dict[tuple[str, str], list[float]] = {}
        for line in self.done.values():
            if line["seconds"]:
                taken.setdefault((line["kind"], line["objective"]), []).append(line["seconds"])
        means = {what: statistics.fmean(seconds) for what, seconds in taken.items()}
        usual = statistics.fmean(means.values()) if means else 0.0
        waiting = [cell for cell in self.plan.cells if cell.id not in self.done]
        expected = sum(means.get((cell.kind, cell.objective), usual) for cell in waiting) + usual * self.plan.undecided
        return expected / at_once

    def lines(self, known: Sequence[Line]) -> list[Line]:
        """Return the lines of the study's cells, in their order.

        Args:
            known: from earlier calls: failed ones that were not tried again are among the lines.
        """
        every = {**{line["cell"]: line for line in known}, **self.done}
        return [every[cell.id] for cell in self.plan.cells if cell.id in every]

    def _has_teacher(self, task: Task) -> bool:
        return task.teacher is None or any(
            cell.task.run == task.teacher.run and self.done.get(cell.id, {}).get("status") == "finished"
            for cell in self.plan.cells
            if cell.kind == "teacher"
        )

    def _line(self, cell: Cell, outcome: Mapping[str, Any]) -> Line:
        return {"cell": cell.id, **cell.place, "study": self.study, **outcome}
