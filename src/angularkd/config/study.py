"""What a study is: the options of its command, and its file, which says what is compared and how."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator
from tyro.conf import Positional, arg

from angularkd.config.base import Config, FileName
from angularkd.config.commands import DistillConfig, TrainConfig
from angularkd.config.options import CacheOptions, PairOptions, Recipe, StudentOptions, TeacherOptions, TrustOptions
from angularkd.errors import InputError, nearest, short_repr

C = TypeVar("C", bound=Config)

MOST_PROCESSES = 256
MOST_THREADS = 256
MOST_SEEDS = 1_000
SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""Of the units of a budget."""
STUDYS_OWN = (
    *("data", "seed", "out", "resume", "trust", "cache", "teacher", "student", "loss", "model", "baseline", "report"),
    *(name for name in DistillConfig.model_fields if name.startswith("teacher_train")),
)
"""Options of a run that a study gives it itself."""
COMMON = {name for kind in (Recipe, CacheOptions) for name in kind.model_fields} | {"insist"}
"""Options of the recipe: those that students with a teacher and without one have, and what only the former need."""


class StudyConfig(TrustOptions):
    """Compare objectives: pairs of teacher and student x objectives x seeds, to one table. A study goes on where it was stopped."""

    file: Annotated[Positional[FileName | None], arg(metavar="FILE")] = None
    """The study: a YAML file that names data, pairs, objectives and seeds. Left out where a table is made from results alone."""
    out: FileName | None = None
    """Folder of the study. Default: studies/ and the name of FILE. What is done there is not done again."""
    seeds: int | tuple[int, ...] | None = None
    """How many seeds (0, 1, ...), or which, in place of those that FILE names. More of them later add only the new ones."""
    budget: str | None = None
    """Begin no further run after this time, such as 3h, 90m or 1h30m. The same command goes on. Default: until all is done."""
    processes: int = Field(1, gt=0, le=MOST_PROCESSES)
    """Runs at once on this machine, a process each, with the threads that FILE gives each run. The numbers are the same."""
    on: Literal["here", "ray"] = "here"
    """Where runs go: this machine, or a Ray cluster, which is started on this machine where there is none."""
    gpus: float | None = Field(None, ge=0, le=MOST_PROCESSES)
    """Share of a GPU for each run on Ray, for example 0.25. Default: a whole one where the cluster has any."""
    table: tuple[FileName, ...] = ()
    """Run nothing, and make the table from these files of results (results.jsonl), merged."""
    markdown: FileName | None = None
    """Also write the table to this file as Markdown."""
    csv: FileName | None = None
    """Also write the table to this file as CSV, its numbers in full."""
    latex: FileName | None = None
    """Also write the table to this file as LaTeX (booktabs)."""

    @field_validator("budget")
    @classmethod
    def _time(cls, budget: str | None) -> str | None:
        if budget is not None and not re.fullmatch(r"(\d+(\.\d+)?[dhms])+", budget):
            raise ValueError("is a time with units, such as 3h, 90m, 45s or 1h30m")
        return budget

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, seeds: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if seeds is not None:
            seeds_of(seeds)
        return seeds

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.on == "ray" and self.processes > 1:
            raise ValueError(
                "`processes` are of this machine: on Ray, threads and `gpus` say how many runs there are at once"
            )
        if self.on != "ray" and self.gpus is not None:
            raise ValueError("`gpus` are shared out by Ray: give `on=ray`, or leave out `gpus`")
        return self

    @property
    def budget_seconds(self) -> float | None:
        """Return the budget in seconds."""
        if self.budget is None:
            return None
        return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([dhms])", self.budget))


class StudyPair(PairOptions, TeacherOptions, StudentOptions):
    """A pair of teacher and student, with options of `distill` about the two."""

    name: str | None = None
    """What tables call it. Default: the names of the two."""
    teacher: str | dict[str, Any]
    """Its SPEC, with `teacher_weights`; or options of `train`, by which the study trains it once."""
    student_pretrained: bool = False
    """Start the student from the weights that its library offers."""
    student_input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the student."""


class StudyObjective(Config):
    """What students of a row are trained by."""

    loss: dict[str, Any] | Literal["none", "default"]
    """A mapping as that of `distill`; default: the one of `distill`; none: from the labels alone, without a teacher."""
    options: dict[str, Any] = {}  # noqa: RUF012
    """Options of `distill` in which it differs from the recipe."""
    grid: dict[str, list[Any]] = {}  # noqa: RUF012
    """Values to choose from on validation images: of a weight (amd), an option of a loss (kd.temperature), or of `distill` (lr)."""
    control: Literal["untrained", "shuffled"] | None = None
    """A teacher that knows nothing of the classes: as its seed initialises it, or trained on shuffled labels."""


class StudySelection(Config):
    """How settings are chosen from the grids."""

    trials: int | None = Field(None, gt=0)
    """Settings that are tried of each objective with a grid, equally many of all. Default: as many as the smallest grid has."""
    seeds: int | tuple[int, ...] = (1000,)
    """Seeds of the trials, none of which is one of the results."""


class Protocol(Config):
    """What is compared, and how: what a study's file holds."""

    name: str | None = None
    """Of the study. Default: that of its file."""
    data: str
    """DATA, as on the command line."""
    pairs: list[dict[str, Any]] = []  # noqa: RUF012
    """Teachers and students."""
    objectives: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    """By the name that tables call each."""
    seeds: int | tuple[int, ...] = 5
    """How many seeds, or which."""
    recipe: dict[str, Any] = {}  # noqa: RUF012
    """Options of `train` and `distill` for every student."""
    vary: dict[str, list[Any]] = {}  # noqa: RUF012
    """Options of `distill`, each with values: everything is done with every combination."""
    selection: dict[str, Any] = {}  # noqa: RUF012
    """How settings are chosen from grids."""
    baselines: bool = True
    """Whether the student from scratch and KD stand beside the objectives."""
    cache: Literal["auto", "always", "never"] = "auto"
    """Whether the teacher's answers are stored: auto where there are at most two views of an image, always for finitely many."""
    threads: int = Field(1, gt=0, le=MOST_THREADS)
    """Threads of each run; other numbers of them give other digits."""

    @field_validator("data")
    @classmethod
    def _some_data(cls, data: str) -> str:
        if not data:
            raise ValueError("is empty: name a folder, digits, cifar10:DIR or another DATA")
        return data

    @classmethod
    def read(cls, options: Mapping[str, Any], where: str) -> Self:
        """Return the protocol of a mapping, all of its parts checked that can be without data.

        Args:
            options: as a study's file holds them.
            where: what errors call the file.

        Raises:
            InputError: naming the part that does not fit.
        """
        protocol = within(where, cls, dict(options))
        if not protocol.pairs:
            raise InputError(f"{where} names no pairs: give at least one teacher and student in 'pairs'")
        _ = protocol.all_pairs, protocol.all_objectives, protocol.chosen_by
        for name in protocol.recipe:
            _check_option(name, "recipe", COMMON)
        for name, values in protocol.vary.items():
            if name != "data":
                _check_option(name, "vary", DistillConfig.model_fields)
            if not values:
                raise InputError(f"vary.{name} names no values: give at least one")
        shared = set(protocol.all_seeds) & set(seeds_of(protocol.chosen_by.seeds))
        if shared and any(objective.grid for objective in protocol.all_objectives.values()):
            raise InputError(
                f"the seeds {', '.join(map(str, sorted(shared)))} choose settings and judge them too: give selection.seeds others"
            )
        return protocol

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Return the seeds of the results."""
        return seeds_of(self.seeds)

    @property
    def chosen_by(self) -> StudySelection:
        """Return how settings are chosen."""
        selection = within("selection", StudySelection, self.selection)
        seeds_of(selection.seeds)
        return selection

    @property
    def all_pairs(self) -> dict[str, StudyPair]:
        """Return the pairs by the names that tables call them."""
        found: dict[str, StudyPair] = {}
        for number, options in enumerate(self.pairs, start=1):
            where = f"pair {number}"
            pair = within(where, StudyPair, options)
            if pair.trust:
                raise InputError(f"{where} gives 'trust', which whoever runs a study gives it: leave it out there")
            if isinstance(pair.teacher, dict):
                for name in pair.teacher:
                    if name != "model":
                        _check_option(name, f"the teacher of {where}", TrainConfig.model_fields, ("seed",))
                if "model" not in pair.teacher:
                    raise InputError(f"the teacher of {where} has no 'model': name its SPEC")
                if pair.teacher_weights is not None:
                    raise InputError(f"{where} trains its teacher: leave out 'teacher_weights'")
            teacher = pair.teacher if isinstance(pair.teacher, str) else str(pair.teacher["model"])
            name = pair.name or f"{_short(teacher)} -> {_short(pair.student)}"
            if name in found:
                raise InputError(f"two pairs are called {name!r}: give each a 'name' of its own")
            found[name] = pair
        return found

    @property
    def all_objectives(self) -> dict[str, StudyObjective]:
        """Return the objectives by name, without the baselines."""
        own = [name for name in StudyObjective.model_fields if name != "options"]
        found = {}
        for name, given in self.objectives.items():
            where = f"objective {name!r}"
            if not isinstance(given, Mapping):
                raise InputError(f"{where} must be a mapping with a 'loss', not {short_repr(given)}")
            rest = {key: value for key, value in given.items() if key not in own}
            kind = TrainConfig if given.get("loss") == "none" else DistillConfig
            for key in rest:
                _check_option(key, where, kind.model_fields, also=own)
            stated = {key: value for key, value in given.items() if key in own}
            objective = within(where, StudyObjective, {**stated, "options": rest})
            for key, values in objective.grid.items():
                if not values:
                    raise InputError(f"{where}: its grid names no values of {key}: give at least one")
            if objective.control is not None and objective.loss == "none":
                raise InputError(f"{where} has a control teacher and no loss that asks it: give it a 'loss'")
            found[name] = objective
        return found


def within(where: str, kind: type[C], options: Mapping[str, Any]) -> C:
    """Build a configuration. Raise InputError that says where, the names of options being those of a file, not of flags."""
    try:
        return kind.from_options(**options)
    except InputError as error:
        raise InputError(f"{where}: {str(error).replace('`', chr(39))}") from None
    except TypeError:
        raise InputError(f"{where}: names of options are words, got {short_repr(list(options))}") from None


def seeds_of(seeds: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return which seeds a number or a list stands for. Raise InputError for none, too many, or one given twice."""
    if isinstance(seeds, int):
        if not 1 <= seeds <= MOST_SEEDS:
            raise InputError(
                f"seeds: as a number they are 1 to {MOST_SEEDS:,}, got {seeds}; one seed is a list: [{seeds}]"
            )
        return tuple(range(seeds))
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"seeds: give one or more different whole numbers from 0, got {short_repr(list(seeds))}")
    return seeds


def _check_option(
    name: str, where: str, known: Collection[str], allowed: tuple[str, ...] = (), also: Sequence[str] = ()
) -> None:
    """Raise InputError unless an option is known and not the study's own."""
    if name in STUDYS_OWN and name not in allowed:
        raise InputError(f"{where}: the study gives each run its '{name}' itself: leave it out there")
    if name not in known:
        valid = [*also, *(key for key in known if key not in STUDYS_OWN)]
        raise InputError(
            f"{where}: unknown key '{name}'.{nearest(str(name), valid)} The valid ones are: {', '.join(sorted(valid))}"
        )


def _short(spec: str) -> str:
    return spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]
