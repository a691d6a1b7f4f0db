"""Weights whose classification layer is for another number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from angularkd.models.weights import load_into, mismatches, misshaped


def load_body(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load all but what has another shape: the classification layer, of another number of classes.

    Args:
        module: keeps its own classification layer.
        state: tensors under the module's names.
        source: what errors call the state.

    Raises:
        InputError: where anything else does not fit; the module is then untouched.
    """
    own = module.state_dict()
    head = set(misshaped(module, state))
    load_into(module, {name: own[name] if name in head else value for name, value in state.items()}, source)


def classes_of_head(module: nn.Module, state: Mapping[str, Any], num_classes: int) -> int | None:
    """Return how many classes the weights tell apart, when that is all that keeps them from fitting; else None.

    Args:
        module: built for `num_classes`.
        state: tensors under the module's names.
        num_classes: of the module.
    """
    own = module.state_dict()
    head = misshaped(module, state)
    heads = {state[name].shape[0] for name in head if state[name].ndim}
    same_tails = all(
        own[name].ndim and state[name].shape[1:] == own[name].shape[1:] and own[name].shape[0] == num_classes
        for name in head
    )
    fits = not mismatches(module, {name: own[name] if name in head else value for name, value in state.items()})
    return heads.pop() if len(heads) == 1 and same_tails and fits else None
