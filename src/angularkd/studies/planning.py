"""From a study's file to its cells: every run that it takes, in the order in which they are begun."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from angularkd.config import DEFAULT_LOSSES, KD_LOSSES, Protocol, StudyObjective, StudyPair, TrainConfig, seeds_of
from angularkd.distillation import storable
from angularkd.errors import InputError
from angularkd.losses import read_terms
from angularkd.models import read_metadata
from angularkd.runs import STUDENT_FILE
from angularkd.studies.cells import Cell, Task
from angularkd.studies.lines import Line
from angularkd.studies.settings import chosen, combinations, trials_each, trials_of, with_settings
from angularkd.studies.summary import KD, SCRATCH, TEACHER

BASELINE_OBJECTIVES = {
    SCRATCH: StudyObjective(loss="none"),
    KD: StudyObjective(loss=KD_LOSSES),
}
"""The student from scratch, and Hinton's distillation with the field's usual weights."""
TEACHERS_TOO = ("data", "image_size", "val_fraction", "split_seed", "on_bad_image")
"""Options that hold for the teacher too where they are varied, for they say which images are held out."""
FEW_VIEWS = ("flip",)
"""Augmentation with at most two views of an image."""
CONTROLS = {"untrained": "untrained", "shuffled": "shuffled labels"}
STUDENTS = {
    "student": "model",
    "student_weights": "weights",
    "student_normalization": "normalization",
    "student_pretrained": "pretrained",
    "student_input_size": "input_size",
}
"""By option of `distill` about the student, that of `train`."""


@dataclass(frozen=True)
class Plan:
    """The cells of a study, as far as they are known, and how many more there will be once settings are chosen."""

    cells: tuple[Cell, ...]
    undecided: int


@dataclass(frozen=True)
class _Group:
    """What is compared: a pair under one combination of what is varied."""

    name: str
    pair: StudyPair
    vary: Mapping[str, Any]


@dataclass(frozen=True)
class Planner:
    """Knows the cells of a study, and which of them follow from others.

    Args:
        protocol: the study's file.
        trust: files whose code may run.
    """

    protocol: Protocol
    trust: tuple[str, ...] = ()
    _cells: dict[str, Cell] = field(default_factory=dict, repr=False)

    @cached_property
    def objectives(self) -> dict[str, StudyObjective]:
        """Return the objectives, the baselines first."""
        own = self.protocol.all_objectives
        baselines = BASELINE_OBJECTIVES if self.protocol.baselines else {}
        found = {name: own.get(name, objective) for name, objective in baselines.items()}
        return {**found, **{name: objective for name, objective in own.items() if name not in found}}

    @cached_property
    def groups(self) -> list[_Group]:
        """Return what is compared: each pair under each combination of what is varied."""
        varied = combinations(self.protocol.vary)
        return [_Group(name, pair, vary) for vary in varied for name, pair in self.protocol.all_pairs.items()]

    @cached_property
    def trials(self) -> int:
        """Return how many settings are tried of each objective with a grid."""
        return trials_each(self.objectives, self.protocol.chosen_by.trials)

    def plan(self, done: Mapping[str, Line]) -> Plan:
        """Return the cells.

        Args:
            done: lines of cells that are finished, or have been tried in this call, by cell.

        Raises:
            InputError: for options that cannot be.
        """
        seeds = self.protocol.all_seeds
        trials, results, undecided = [], [], 0
        for group in self.groups:
            for name, objective in self.objectives.items():
                settings: dict[str, Any] | None = {}
                if objective.grid:
                    tried = self._trials(group, name, objective)
                    trials += [cell for cells in tried for cell in cells]
                    settings = self._chosen(tried, done)
                if settings is None:
                    undecided += len(seeds) if any(cell.id not in done for cells in tried for cell in cells) else 0
                    continue
                results += [self._cell("result", group, name, objective, settings, seed) for seed in seeds]
        results.sort(
            key=lambda cell: seeds.index(cell.seed)
        )  # so that a study that is stopped has a few seeds of everything
        return Plan((*self._teachers([*trials, *results]), *trials, *results), undecided)

    def _trials(self, group: _Group, name: str, objective: StudyObjective) -> list[list[Cell]]:
        """Return the cells of each setting that is tried."""
        seeds = seeds_of(self.protocol.chosen_by.seeds)
        return [
            [self._cell("selection", group, name, objective, settings, seed) for seed in seeds]
            for settings in trials_of(name, objective.grid, self.trials)
        ]

    def _chosen(self, tried: Sequence[Sequence[Cell]], done: Mapping[str, Line]) -> dict[str, Any] | None:
        """Return the settings that are best on validation images; None while some are not known, or where all failed."""
        if any(cell.id not in done for cells in tried for cell in cells):
            return None
        accuracies = [[_validation_accuracy(done[cell.id]) for cell in cells] for cells in tried]
        return chosen([dict(cells[0].settings) for cells in tried], accuracies)

    def _cell(
        self, kind: str, group: _Group, name: str, objective: StudyObjective, settings: Mapping[str, Any], seed: int
    ) -> Cell:
        key = json.dumps([kind, group.name, group.vary, name, settings, seed])
        if key in self._cells:
            return self._cells[key]
        where = f"objective {name!r} of pair {group.name!r}"
        try:
            task = self._task(group, objective, settings, seed, where, test=kind == "result")
        except InputError as error:
            message = str(error).replace("`", "'")  # a file's names, no flags
            raise InputError(message if message.startswith(where) else f"{where}: {message}") from None
        self._cells[key] = Cell(kind, group.name, group.vary, name, settings, seed, task)
        return self._cells[key]

    def _task(
        self,
        group: _Group,
        objective: StudyObjective,
        settings: Mapping[str, Any],
        seed: int,
        where: str,
        *,
        test: bool,
    ) -> Task:
        """Return the run of one student."""
        protocol, pair = self.protocol, group.pair
        about = pair.model_dump(mode="json", exclude_defaults=True, exclude={"name", "teacher", "trust"})
        options: dict[str, Any] = {"data": protocol.data, **protocol.recipe, **about, **group.vary, **objective.options}
        options["seed"] = seed
        if objective.loss == "none":
            options = with_settings(options, settings, where)
            return Task("train", _for_train(options), test=test, threads=protocol.threads, trust=self.trust)
        if objective.loss != "default":
            options["loss"] = dict(objective.loss)
        elif objective.control is not None or any(name.partition(".")[0] in DEFAULT_LOSSES for name in settings):
            options["loss"] = dict(DEFAULT_LOSSES)
        options = with_settings(options, settings, where)
        teacher = self._teacher(group, objective)
        if teacher is None:
            options["teacher"] = pair.teacher
        if objective.control is not None:
            options = {
                name: value for name, value in options.items() if name not in ("teacher_weights", "teacher_classes")
            }
            options["insist"] = True  # what the checks of a teacher find of this one is what it is for
        cached = self._is_cached(options)
        return Task("distill", options, teacher, test, cached, protocol.threads, self.trust)

    def _teacher(self, group: _Group, objective: StudyObjective) -> Task | None:
        """Return the task of the teacher that the study makes; None for one that is there."""
        protocol, pair = self.protocol, group.pair
        if isinstance(pair.teacher, str) and objective.control is None:
            return None
        given = dict(pair.teacher) if isinstance(pair.teacher, dict) else {"model": _architecture(pair.teacher)}
        recipe = {name: value for name, value in protocol.recipe.items() if name in TrainConfig.model_fields}
        varied = {name: value for name, value in group.vary.items() if name in TEACHERS_TOO}
        options = {"data": protocol.data, **recipe, **varied, **given}
        if objective.control is not None:
            trained = ("weights", "pretrained", "new_head", "train_only_head")
            options = {name: value for name, value in options.items() if name not in trained}
        action = objective.control or "train"
        return Task(action, options, threads=protocol.threads, trust=self.trust)

    def _is_cached(self, options: Mapping[str, Any]) -> bool:
        """Say whether a run's teacher answers from the study's cache."""
        augment = options.get("augment")
        few = augment is not None and set((augment,) if isinstance(augment, str) else augment) <= set(FEW_VIEWS)
        if self.protocol.cache == "never" or not (few or self.protocol.cache == "always"):
            return False
        mixed = options.get("mixup") or options.get("cutmix")
        return not mixed and storable(read_terms(options.get("loss", DEFAULT_LOSSES)))

    def _teachers(self, cells: Sequence[Cell]) -> Iterator[Cell]:
        """Yield a cell for each teacher that these cells need, once."""
        known = set()
        for cell in cells:
            task = cell.task.teacher
            if task is None or task.run in known:
                continue
            known.add(task.run)
            what = f"{TEACHER}, {CONTROLS[task.action]}" if task.action in CONTROLS else TEACHER
            vary = {name: value for name, value in cell.vary.items() if name in TEACHERS_TOO}
            yield Cell("teacher", cell.pair, vary, what, {}, int(task.options.get("seed", 0)), task)


def _for_train(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `distill` for a student without a teacher: those that `train` has, by its names for them."""
    renamed = {STUDENTS.get(name, name): value for name, value in options.items()}
    found = {name: value for name, value in renamed.items() if name in TrainConfig.model_fields}
    if "weights" in found or found.get("pretrained"):
        found["new_head"] = True  # as `distill` does it
    return found


def _architecture(spec: str) -> str:
    """Return the SPEC of a network without its weights: that of a run's folder stands in its file."""
    if not Path(spec).is_dir():
        return spec
    architecture = read_metadata(Path(spec) / STUDENT_FILE).get("model")
    if not isinstance(architecture, str):
        raise InputError(
            f"{spec} does not say which network it holds: name its architecture as the teacher, and `teacher_weights`"
        )
    return architecture


def _validation_accuracy(line: Mapping[str, Any]) -> float | None:
    """Return the last epoch's accuracy on the validation images; None for a run that failed."""
    return float(line["validation"]["accuracy"]) if line["status"] == "finished" else None
