"""Networks that are passed as they are: a configuration holds texts, so modules travel beside it, by role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from angularkd.config import Recipe
from angularkd.models import module_spec, same_network

Modules = Mapping[str, nn.Module]
"""By role: "model", "teacher" or "student"."""

ROLES = ("model", "teacher", "student")
C = TypeVar("C", bound=Recipe)


def taken_out(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """Return options with a text in the place of each module, and the modules by role."""
    modules = {role: options[role] for role in ROLES if isinstance(options.get(role), nn.Module)}
    return {**options, **{role: module_spec(module) for role, module in modules.items()}}, modules


def as_started(config: C, stored: Mapping[str, Any] | None, trained: tuple[str, ...]) -> C:
    """Return a configuration whose modules that are trained are named as those that the run was started with.

    A run that was interrupted has trained the very module that is passed again; its checkpoint holds the weights to go on with.

    Args:
        config: of the run that goes on.
        stored: the options of the run that was started.
        trained: the roles whose weights are trained.
    """
    names = {role: (getattr(config, role, ""), str((stored or {}).get(role, ""))) for role in trained}
    return config.model_copy(update={role: old for role, (new, old) in names.items() if same_network(new, old)})
