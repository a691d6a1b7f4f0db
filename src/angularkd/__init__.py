"""angularkd: distil any PyTorch vision classifier into a smaller one with angular margin-based distillation (AMD).

The names below are loaded when they are first used, so that importing the package costs nothing; not even `typing` is imported.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from angularkd.commands.distill import distill
    from angularkd.commands.evaluate import evaluate
    from angularkd.commands.explain import explain
    from angularkd.commands.export import export
    from angularkd.commands.plan import plan
    from angularkd.commands.report import report
    from angularkd.commands.study import study
    from angularkd.commands.train import train
    from angularkd.distillation import Distiller
    from angularkd.errors import InputError
    from angularkd.inference import load
    from angularkd.losses import AMDLoss
    from angularkd.runs import Run

__version__: str

__all__ = [
    "AMDLoss",
    "Distiller",
    "InputError",
    "Run",
    "distill",
    "evaluate",
    "explain",
    "export",
    "load",
    "plan",
    "report",
    "study",
    "train",
]

_HOMES = {
    "AMDLoss": "angularkd.losses",
    "Distiller": "angularkd.distillation",
    "InputError": "angularkd.errors",
    "load": "angularkd.inference",
    "Run": "angularkd.runs",
    **{
        name: f"angularkd.commands.{name}"
        for name in ("distill", "evaluate", "explain", "export", "plan", "report", "study", "train")
    },
}
"""Where each public name is defined."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("angularkd")
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'angularkd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
