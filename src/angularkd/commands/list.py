"""The list command: models, losses, data sets and metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch

from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.data import SOURCES
from angularkd.errors import InputError
from angularkd.features import ATTENTIONS
from angularkd.losses import LOSSES, SCHEDULE, overview, paper_link, paper_name
from angularkd.metrics import COSTS, METRICS, row_of
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
    rows = [
        (loss.name, loss.summary, loss.compares, loss.usual_weight, paper_name(loss.paper))
        for loss in overview({name: LOSSES[name] for name in names})
    ]
    words = ("what it is", "compares", "usual weight")
    print_table(console, ("loss", *words, "paper"), rows, words=words)
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
        mechanisms = [(name, row.summary, "yes" if row.takes_power else "") for name, row in ATTENTIONS.items()]
        print_table(console, ("attention", "what it is", "takes a power"), mechanisms, words=("what it is",))


def _datasets(pattern: str, console: Console) -> None:
    summaries = {row.written: row.summary for row in SOURCES.values()}
    names = _some([name for name in summaries if fnmatch(name, pattern)], pattern, "datasets")
    print_table(console, ("DATA", "what it is"), [(name, summaries[name]) for name in names], words=("what it is",))


def _metrics(pattern: str, console: Console) -> None:
    names = _some([name for name in (*METRICS, *COSTS) if fnmatch(name, pattern)], pattern, "metrics")
    rows = [(name, row.summary, row.unit, row.better or "") for name, row in ((name, row_of(name)) for name in names)]
    print_table(console, ("metric", "what it is", "unit", "better"), rows, words=("what it is",))


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
