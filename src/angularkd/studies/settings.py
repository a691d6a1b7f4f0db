"""Settings of a grid: which are tried, and which of them is chosen, on validation images alone."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from angularkd.config import DistillConfig, StudyObjective, TrainConfig
from angularkd.errors import InputError, short_repr
from angularkd.losses import LOSSES

Settings = dict[str, Any]


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Return every combination of the values of a grid, or of what is varied, in their order; one empty one of nothing."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def trials_each(objectives: Mapping[str, StudyObjective], asked: int | None) -> int:
    """Return how many settings are tried of each objective with a grid: as many of all, so that none gets more chances to be lucky.

    Raises:
        InputError: for more than some grid has.
    """
    sizes = {name: len(combinations(one.grid)) for name, one in objectives.items() if one.grid}
    smallest = min(sizes, key=lambda name: sizes[name]) if sizes else None
    if smallest is None:
        return 0
    if asked is not None and asked > sizes[smallest]:
        raise InputError(
            f"selection.trials is {asked}, and the grid of objective {smallest!r} has {sizes[smallest]}: give it more values, or fewer "
            "trials"
        )
    return asked or sizes[smallest]


def trials_of(name: str, grid: Mapping[str, Sequence[Any]], count: int) -> list[Settings]:
    """Return the settings that are tried: all of a grid, or so many of them, drawn by the objective's name and evenly likely."""
    every = combinations(grid)
    if len(every) == count:
        return every
    drawn = random.Random(f"trials of {name}").sample(range(len(every)), count)
    return [every[place] for place in sorted(drawn)]


def chosen(trials: Sequence[Settings], accuracies: Sequence[Sequence[float | None]]) -> Settings | None:
    """Return the settings with the best mean accuracy on validation images, the first of equals; None where none is whole.

    Args:
        trials: what was tried.
        accuracies: for each of them those of the selection's seeds; None for a run that failed.
    """
    means = {
        place: statistics.fmean([value for value in values if value is not None])
        for place, values in enumerate(accuracies)
        if None not in values
    }
    return trials[max(means, key=lambda place: means[place])] if means else None


def with_settings(options: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options of a run with settings of a grid in them.

    Args:
        options: whose `loss`, if there is one, is a mapping.
        settings: by NAME of a loss (its weight), NAME.OPTION, or the name of another option.
        where: what errors call the objective.

    Raises:
        InputError: for a setting of a loss that the objective does not have, and for what is no option.
    """
    losses = {
        name: dict(loss) if isinstance(loss, Mapping) else {"weight": loss}
        for name, loss in (options.get("loss") or {}).items()
    }
    found = dict(options)
    for key, value in settings.items():
        name, dot, option = str(key).partition(".")
        if name in losses:
            short = LOSSES[name].short if name in LOSSES else {}
            losses[name] = {short.get(known, known): old for known, old in losses[name].items()}
            losses[name][short.get(option, option) if dot else "weight"] = value
        elif not dot and key in {**TrainConfig.model_fields, **DistillConfig.model_fields} and key != "loss":
            found[key] = value
        else:
            raise InputError(
                f"{where}: its grid names {short_repr(key)}, which is no option, nor of one of its losses ({', '.join(losses) or 'none'})"
            )
    return {**found, "loss": losses} if losses else found
