"""The names of weights: what was wrapped around a network in training put something before them, or into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing put anywhere into them."""
COUNTERS = ("n_averaged",)
"""What AveragedModel keeps beside the weights."""


@dataclass(frozen=True)
class Renamed:
    """A state under a module's own names.

    Attributes:
        state: what the module is to load, and what has no place there, by their names.
        stripped: parts of the names that were taken out, a phrase each.
        left_out: names that do not lie under the prefix of all that belongs to the module.
    """

    state: dict[str, Any]
    stripped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def renamings(state: Mapping[str, Any], own: Iterable[str]) -> list[Renamed]:
    """Return the state under a module's own names, in each way that finds most of these: one, unless it holds several such networks.

    Names are compared without the parts that wrappers put into them, of which the module itself may have some; what then lies
    before all of them, 'model.' or 'backbone.', is taken off.

    Args:
        state: values by name.
        own: the module's names.
    """
    bare_own = {bare(name): name for name in own}
    if len(bare_own) < len(list(own)):  # they differ in nothing else
        bare_own = {name: name for name in own}
    prefixes = Counter(prefix for name in state for prefix, rest in _splits(bare(name)) if rest in bare_own)
    most = max(prefixes.values(), default=0)
    best = [prefix for prefix, count in prefixes.items() if count == most]
    chosen = [""] if "" in best or not best else best
    return [_without(prefix, state, bare_own) for prefix in chosen]


def bare(name: str) -> str:
    """Return a name without the parts that wrappers put into it."""
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in WRAPPERS), last])


def _splits(name: str) -> Iterable[tuple[str, str]]:
    """Yield every prefix of a name, with its dot, and what follows it."""
    yield "", name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[: place + 1], name[place + 1 :]


def _without(prefix: str, state: Mapping[str, Any], own: Mapping[str, str]) -> Renamed:
    found: dict[str, Any] = {}
    stripped: dict[str, None] = {f"'{prefix}'": None} if prefix else {}
    left_out = []
    for name, value in state.items():
        rest = bare(name).removeprefix(prefix)
        target = own.get(rest) if bare(name).startswith(prefix) else None
        if target is not None and target not in found:
            found[target] = value
            taken = WRAPPERS.intersection(name.split(".")) - set(target.split("."))
            stripped |= {f"'{part}.'": None for part in sorted(taken)}
        elif not bare(name).startswith(prefix):
            left_out.append(name)
        elif name not in COUNTERS:
            found[rest if _foreign(name, own) and rest not in found else name] = value
    return Renamed(found, tuple(stripped), tuple(name for name in left_out if name not in COUNTERS))


def _foreign(name: str, own: Mapping[str, str]) -> bool:
    """Return whether the module's own names have none of the wrappers' parts that this name has."""
    parts = WRAPPERS.intersection(name.split("."))
    return not any(parts.intersection(target.split(".")) for target in own.values())
