"""Checkpoints: everything that a resumed run needs to end with the weights it would have had."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from angularkd.errors import InputError
from angularkd.runs import check_identity
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
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0


@dataclass(frozen=True)
class Checkpointer:
    """What saves and restores a run. The distiller's state is the student's and its losses': the teacher is never in it.

    Attributes:
        path: the checkpoint's file.
        scaler: what holds the loss scale of float16 training (Fabric's precision plugin).
        identity: what must be equal for a resumption to make sense; a checkpoint of another run is refused.
        average: of the student's weights, where one is taken.
    """

    path: Path
    distiller: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: Any
    identity: dict[str, Any]
    average: AveragedStudent | None = None

    def save(self, state: TrainingState) -> None:
        """Write the checkpoint, whole or not at all."""
        content = {
            "identity": self.identity,
            "state": vars(state),
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        if self.average is not None:
            content["average"] = self.average.state_dict()
        write_atomically(self.path, lambda temporary: torch.save(content, temporary))

    def load(self) -> TrainingState:
        """Restore everything.

        Returns:
            Where the run stands.

        Raises:
            InputError: for a damaged checkpoint, and one of another run.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise InputError(
                f"the checkpoint {self.path} is damaged ({str(error).splitlines()[0]}): remove the run's folder and start anew"
            ) from None
        check_identity(self.path.parent.parent, content["identity"], self.identity)
        self.distiller.load_state_dict(content["distiller"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(content["cuda_rng"])
        return TrainingState(**content["state"])
