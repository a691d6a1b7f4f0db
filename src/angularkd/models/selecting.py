"""Which of the tensors in a file of weights are a module's: under whatever key they lie, whatever was put before their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.models.checkpoints import Stored, is_usual, stored_in
from angularkd.models.heads import classes_of_head
from angularkd.models.names import Renamed, renamings
from angularkd.models.weights import mismatches

Rename = Callable[[nn.Module, Mapping[str, Any]], dict[str, Any] | None]
"""Gives a state the names that a library's module has for it; None where it has none."""
LISTED = 4
"""Names at most that a note lists."""


@dataclass(frozen=True)
class Selected:
    """What a file holds for a module.

    Attributes:
        state: under the module's names.
        classes: that the weights tell apart, where it is only that which keeps them from fitting.
        notes: what was selected, stripped and left out, where that is not plain.
    """

    state: dict[str, Any]
    classes: int | None
    notes: tuple[str, ...]


def select_weights(module: nn.Module, file: str, num_classes: int, rename: Rename | None = None) -> Selected:
    """Return what a file holds for a module: the one mapping in it that fits; where none does, the one most like it.

    Args:
        module: built for `num_classes`.
        file: of weights.
        num_classes: of the module.
        rename: of the module's library, for files under other names than the module's.

    Raises:
        InputError: for a file that cannot be read, and one that holds several unequal networks that fit.
    """
    stored, own = stored_in(file), module.state_dict().keys()
    candidates = [(part, found) for part in stored for found in renamings(part.state, own)]
    fitting = []
    for part, found in candidates:
        tensors, dropped = _tensors_and_own(found.state, own)
        classes = classes_of_head(module, tensors, num_classes)
        if classes is not None or not mismatches(module, tensors):
            fitting.append((part, found, Selected(tensors, classes, _notes(file, stored, part, found, dropped))))
    if not fitting:
        part, found = max(candidates, key=lambda candidate: len(own & candidate[1].state.keys()))
        tensors, dropped = _tensors_and_own(found.state, own)
        renamed = rename(module, part.state) if rename is not None else None
        if renamed is None:
            return Selected(tensors, None, _notes(file, stored, part, found, dropped))
        return Selected(renamed, classes_of_head(module, renamed, num_classes), ())
    first = fitting[0]
    rivals = [other for other in fitting[1:] if other[0] is first[0] or not is_usual(first[0])]
    for part, found, selected in rivals:
        if not _equal(selected.state, first[2].state):
            places = " and ".join(_place(file, *candidate) for candidate in (first[:2], (part, found)))
            raise InputError(f"{file} holds several networks that fit, {places}: save the one that is meant alone")
    return first[2]


def _tensors_and_own(state: Mapping[str, Any], own: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what can be a module's, and the names of what is neither a tensor nor its: counters and options beside the weights."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) or name in own}
    return tensors, [name for name in state if name not in tensors]


def _notes(file: str, stored: list[Stored], part: Stored, found: Renamed, dropped: list[str]) -> tuple[str, ...]:
    left_out = [*found.left_out, *(name for name in dropped if name not in {key for s in stored for key in s.keys})]
    phrases = []
    if part.keys and (len(stored) > 1 or not is_usual(part)):
        phrases.append(f"the weights under '{part.place}' are taken")
    if found.stripped:
        phrases.append(
            f"{' and '.join(found.stripped)} {'is' if len(found.stripped) == 1 else 'are'} taken out of their names"
        )
    if left_out:
        more = f" and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
        phrases.append(f"what is no part of the network is left out ({', '.join(left_out[:LISTED])}{more})")
    return (f"{file}: {', '.join(phrases)}",) if phrases else ()


def _place(file: str, part: Stored, found: Renamed) -> str:
    prefix = next((text for text in found.stripped if text.strip("'").rstrip(".") not in part.keys), "")
    return (
        f"'{part.place}'" if part.keys and not prefix else f"what begins with {prefix}" if prefix else "its own names"
    )


def _equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        isinstance(value, Tensor) and isinstance(second[name], Tensor) and torch.equal(value, second[name])
        for name, value in first.items()
    )
