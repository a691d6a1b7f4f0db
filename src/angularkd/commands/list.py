"""The list command: models, losses, data sets and metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch

from rich.console import Console
from rich.table import Column, Table

from angularkd.data import SOURCES
from angularkd.errors import InputError
from angularkd.features import ATTENTIONS
from angularkd.losses import LOSSES, SCHEDULE, overview, paper_link, paper_name
from angularkd.metrics import METRICS
from angularkd.models import model_names


def show_list(what: str, pattern: str, console: Console) -> None:
    """Print what there is of a kind in LISTS.

    Raises:
        InputError: when nothing matches the shell pattern.
    """
    LISTS[what](pattern, console)


def _models(pattern: str, console: Console) -> None:
    for name in _some(model_names(pattern), pattern, "models"):
        console.print(name, highlight=False, soft_wrap=True)


def _losses(pattern: str, console: Console) -> None:
    names = _some([name for name in LOSSES if fnmatch(name, pattern)], pattern, "losses")
    compares, usual_weight = Column("compares", max_width=12), Column("usual weight", max_width=11)
    table = Table("loss", Column("what it is", min_width=22), compares, usual_weight, "paper")
    for loss in overview({name: LOSSES[name] for name in names}):
        table.add_row(loss.name, loss.summary, loss.compares, loss.usual_weight, paper_name(loss.paper))
    console.print(table)
    if pattern == "*":
        console.print("angularkd list losses NAME shows its options and where to read of it", highlight=False)
    else:
        for name in names:
            options = ", ".join(f"{key}={default}" for key, default in LOSSES[name].options().items())
            console.print(f"{name}: {options}".rstrip(": "), highlight=False)
            if LOSSES[name].paper:
                console.print(paper_link(LOSSES[name].paper), highlight=False, soft_wrap=True)
    console.print(
        f"Every loss also takes {' and '.join(SCHEDULE)}: its weight's course over the run. Usual weights stand beside ce=1 where "
        "nothing else is said; auto finds one.",
        highlight=False,
    )
    if any("attention" in LOSSES[name].options() for name in names):
        mechanisms = Table("attention", "what it is", "takes a power")
        for name, row in ATTENTIONS.items():
            mechanisms.add_row(name, row.summary, "yes" if row.takes_power else "")
        console.print(mechanisms)


def _datasets(pattern: str, console: Console) -> None:
    table = Table("DATA", "what it is")
    summaries = {row.written: row.summary for row in SOURCES.values()}
    for name in _some([name for name in summaries if fnmatch(name, pattern)], pattern, "datasets"):
        table.add_row(name, summaries[name])
    console.print(table)


def _metrics(pattern: str, console: Console) -> None:
    table = Table("metric", "what it is", "unit", "better")
    for name in _some([name for name in METRICS if fnmatch(name, pattern)], pattern, "metrics"):
        table.add_row(name, METRICS[name].summary, METRICS[name].unit, METRICS[name].better)
    console.print(table)


LISTS: dict[str, Callable[[str, Console], None]] = {
    "models": _models,
    "losses": _losses,
    "datasets": _datasets,
    "metrics": _metrics,
}


def _some(names: list[str], pattern: str, what: str) -> list[str]:
    if not names:
        raise InputError(f"no {what} match '{pattern}': a pattern is like 'cifar/*'; angularkd list {what} shows all")
    return names
