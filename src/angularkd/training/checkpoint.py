"""Checkpoints: everything that a resumed run needs to end with the weights it would have had."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from angularkd.errors import InputError
from angularkd.runs import check_identity, check_unchanged
from angularkd.system.files import write_atomically
from angularkd.training.ema import AveragedStudent


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        history: the rows of metrics.jsonl.
        best_epoch, best_accuracy: of the best validation so far (the first of equals).
        best_weights: the student's weights after that epoch, on the host.
        seconds: that the run took up to the last checkpoint, in all its parts.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpointer:
    """What saves and restores a run. The distiller's state is the student's and its losses': the teacher is never in it.

    A checkpoint is a ZIP file, with a checksum of each of its parts, which is compared before it is used. The one before it stays.

    Attributes:
        path: the checkpoint's file.
        previous: where the checkpoint before it is, in the same folder.
        scaler: what holds the loss scale of float16 training (Fabric's precision plugin).
        identity: what must be equal for a resumption to make sense; a checkpoint of another run is refused.
        fingerprints: of what the options name, by what a message calls it; a change is refused.
        average: of the student's weights, where one is taken.
    """

    path: Path
    previous: Path
    distiller: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: Any
    identity: dict[str, Any]
    fingerprints: dict[str, str]
    average: AveragedStudent | None = None

    def save(self, state: TrainingState) -> None:
        """Write the checkpoint, whole or not at all."""
        content = {
            "identity": self.identity,
            "fingerprints": self.fingerprints,
            "state": vars(state),
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": _random_states(),
        }
        if self.average is not None:
            content["average"] = self.average.state_dict()
        write_atomically(self.path, lambda temporary: torch.save(content, temporary), keep=self.previous)

    def load(self, log: Callable[[str], None]) -> TrainingState:
        """Restore everything, from the checkpoint before the last where that is damaged.

        Args:
            log: is called with a line that says so.

        Returns:
            Where the run stands.

        Raises:
            InputError: for damaged checkpoints, those of another run, and where what the run was started with has changed.
        """
        content, damage = self._read()
        folder = self.path.parent.parent
        check_identity(folder, content["identity"], self.identity)
        check_unchanged(folder, content["fingerprints"], self.fingerprints)
        self.distiller.load_state_dict(content["distiller"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        _restore_random_states(content["rng"])
        state = TrainingState(**content["state"])
        if damage is not None:
            self.path.unlink(missing_ok=True)  # so that the next one does not become the one before the last
            log(f"note: {damage}: the run goes on from the checkpoint before it, of epoch {state.epoch}")
        return state

    def _read(self) -> tuple[dict[str, Any], str | None]:
        """Return the content of the last checkpoint that is sound, and what is wrong with the last where it is not that."""
        damage = _damage(self.path)
        if damage is None:
            return _content(self.path), None
        if self.path.is_dir():
            raise InputError(
                f"{damage}: remove it; the run then goes on from the checkpoint before it, where there is one"
            )
        if _damage(self.previous) is None:
            return _content(self.previous), damage
        raise InputError(f"{damage}, and there is no sound one before it: remove the run's folder and start anew")


PARTS = {"identity", "fingerprints", "state", "distiller", "optimizer", "scheduler", "scaler", "rng"}
"""What a checkpoint holds."""


def _damage(path: Path) -> str | None:
    """Return what is wrong with a file that should be a checkpoint, or None."""
    who = f"the checkpoint {path}"
    if not path.exists():
        return f"{who} is missing"
    if path.is_dir():
        return f"{who} is a folder"
    if path.stat().st_size == 0:
        return f"{who} is empty"
    try:
        with zipfile.ZipFile(path) as parts:
            broken = parts.testzip()
        content = _content(path) if broken is None else None
    except Exception:  # foreign and damaged files raise anything
        return f"{who} is damaged, or none"
    if broken is not None:
        return f"{who} is damaged (its part {broken} is not what was written)"
    return (
        None
        if isinstance(content, dict) and content.keys() >= PARTS
        else f"{who} is none of a run, or of an older version"
    )


def _content(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _random_states() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and PyTorch."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
