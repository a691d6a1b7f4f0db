"""angularkd: distil any PyTorch vision classifier into a smaller one with angular margin-based distillation (AMD).

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from angularkd.commands.distill import distill
    from angularkd.commands.evaluate import evaluate
    from angularkd.commands.explain import explain
    from angularkd.commands.plan import plan
    from angularkd.commands.train import train
    from angularkd.distillation import Distiller
    from angularkd.errors import InputError
    from angularkd.losses import AMDLoss
    from angularkd.runs import Run

__version__ = "0.1.0"

__all__ = ["AMDLoss", "Distiller", "InputError", "Run", "distill", "evaluate", "explain", "plan", "train"]

_HOMES = {
    "AMDLoss": "angularkd.losses",
    "Distiller": "angularkd.distillation",
    "InputError": "angularkd.errors",
    "Run": "angularkd.runs",
    **{name: f"angularkd.commands.{name}" for name in ("distill", "evaluate", "explain", "plan", "train")},
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'angularkd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
