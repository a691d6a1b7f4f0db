"""What a run that goes on takes from its folder: its checkpoint, and what the run there found or was given."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from angularkd.config import MAPS_ALONE, DistillConfig, Recipe, format_losses, stored_weights, with_weights
from angularkd.errors import InputError
from angularkd.runs import RunFolder, check_identity, identity_of
from angularkd.training.checkpoint import Checkpointer
from angularkd.training.fingerprints import run_fingerprints
from angularkd.training.job import Job
from angularkd.training.modules import as_started

C = TypeVar("C", bound=Recipe)


def checkpointer_of(job: Job, folder: RunFolder) -> Checkpointer:
    """Return what saves and restores a run in a folder."""
    return Checkpointer(
        folder.checkpoint,
        folder.previous,
        job.distiller,
        job.optimizer,
        job.scheduler,
        job.fabric.strategy.precision,
        _identity(job.config),
        run_fingerprints(job),
        job.average,
    )


def _identity(config: Recipe) -> dict[str, Any]:
    losses = {"loss": config.losses} if isinstance(config, DistillConfig) else {}
    return identity_of(type(config).__name__, {**config.model_dump(mode="json"), **losses})


def with_stored_weights(config: DistillConfig, folder: RunFolder) -> DistillConfig:
    """Return the configuration with the weights that the run which is resumed has found for losses of `auto`.

    A checkpoint confirms them. Where there is none yet, the plan must: else they are found anew, which gives the same.
    """
    stored = folder.read_config() if config.resume else None
    losses = stored.get("loss") if stored is not None else None
    if not isinstance(losses, dict):
        return config
    wanted = MAPS_ALONE if not config.loss and losses.keys() == MAPS_ALONE.keys() else config.losses
    weights = stored_weights(wanted, losses)
    if not folder.checkpoints and any(_planned_weights(folder).get(name) != weight for name, weight in weights.items()):
        return config
    return config.model_copy(update={"loss": format_losses(with_weights(wanted, weights))})


def going_on(config: C, folder: RunFolder, *trained: str) -> C:
    """Return the configuration with what the run which is resumed has: names for modules that are trained, and the precision of `auto`.

    So a run goes on in the precision that it was started in, also where another processor would choose another one.
    """
    if not config.resume:
        return config
    stored = folder.read_config()
    if config.precision == "auto" and (stored or {}).get("precision") in ("32-true", "bf16-mixed", "16-mixed"):
        config = config.model_copy(update={"precision": (stored or {})["precision"]})
    return as_started(config, stored, trained)


def _planned_weights(folder: RunFolder) -> dict[str, Any]:
    """Return the weights of the losses in the plan, none where it cannot be read."""
    try:
        weights = json.loads(folder.plan.read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return weights if isinstance(weights, dict) else {}


def with_teachers_recipe(config: DistillConfig, folder: RunFolder) -> DistillConfig:
    """Return the configuration with the optimiser and rates by which the teacher was fitted, so that it repeats the run."""
    options = folder.read_config() or {}
    names = ("optimizer", "lr", "weight_decay")
    return config.model_copy(update={f"teacher_train_{name}": options[name] for name in names if name in options})


def check_started(job: Job, folder: RunFolder) -> None:
    """Check that a run which was started in a folder, and has no checkpoint yet, is this one.

    Raises:
        InputError: where it is not.
    """
    check_identity(folder.path, _stored_identity(type(job.config), folder), _identity(job.config))


def _stored_identity(kind: type[Recipe], folder: RunFolder) -> dict[str, Any] | None:
    """Return the identity of the run that was started in a folder, None where its configuration is of another command."""
    options = folder.read_config()
    try:
        return _identity(kind.from_options(**options)) if options is not None else None
    except (InputError, TypeError):
        return None
