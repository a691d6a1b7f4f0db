"""Checkpoints: everything that a resumed run needs to end with the weights it would have had."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from angularkd.errors import InputError
from angularkd.runs import check_identity, check_unchanged
from angularkd.system.files import write_atomically
from angularkd.system.ranks import count, gather, number, once
from angularkd.training.ema import AveragedStudent
from angularkd.training.state import TrainingState


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
    previous: Path | None
    distiller: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: Any
    identity: dict[str, Any]
    fingerprints: dict[str, str]
    average: AveragedStudent | None = None

    def at(self, path: Path) -> Checkpointer:
        """Return one that writes to another file, and keeps none before it."""
        return replace(self, path=path, previous=None)

    def save(self, state: TrainingState) -> None:
        """Write the checkpoint, whole or not at all; of several processes the first does, for all of them."""
        ours = {"rng": random_states(), "within": state.within}
        others = gather(ours)[1:]
        content = {
            "identity": self.identity,
            "fingerprints": self.fingerprints,
            "state": vars(state),
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": ours["rng"],
        }
        if others:
            content["others"] = others
        if self.average is not None:
            content["average"] = self.average.state_dict()
        once(lambda: write_atomically(self.path, lambda temporary: _write(content, temporary), keep=self.previous))

    def load(self, log: Callable[[str], None], *, as_started: bool = True) -> TrainingState:
        """Restore everything, from the checkpoint before the last where that is damaged.

        Args:
            log: is called with a line that says so.
            as_started: whether the run goes on, so that there must be as many processes as it was started with.

        Returns:
            Where the run stands.

        Raises:
            InputError: for damaged checkpoints, those of another run, and where what the run was started with has changed.
        """
        content, damage = self._read()
        folder = self.path.parent.parent
        check_identity(folder, content["identity"], self.identity)
        check_unchanged(folder, content["fingerprints"], self.fingerprints)
        ours = [{"rng": content["rng"], "within": content["state"]["within"]}, *content.get("others", ())]
        if as_started:
            _check_processes(folder, len(ours))
        self.distiller.load_state_dict(content["distiller"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        mine = ours[number()]
        restore_random_states(mine["rng"])
        state = TrainingState(**{**content["state"], "within": mine["within"]})
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
        if self.previous is not None and _damage(self.previous) is None:
            return _content(self.previous), damage
        raise InputError(f"{damage}, and there is no sound one before it: remove the run's folder and start anew")


PARTS = {"identity", "fingerprints", "state", "distiller", "optimizer", "scheduler", "scaler", "rng"}
"""What a checkpoint holds."""


def _check_processes(folder: Path, processes: int) -> None:
    """Check that a run goes on in as many processes as it has random states of: else it would end with other weights."""
    if processes != count():
        raise InputError(
            f"the run in {folder} is of {processes} process{'es' if processes > 1 else ''}, and would go on in {count()}: resume with "
            f"`devices={processes}`, or by torchrun with as many processes, or give another `out`"
        )


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


def _write(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint. PyTorch writes through a file that it did not open, for it loses what the system says of one that it did."""
    with path.open("wb") as file:
        refused: list[OSError] = []

        class Through(io.RawIOBase):
            def write(self, data: Any) -> int:
                try:
                    return file.write(data)
                except OSError as error:
                    refused.append(error)
                    raise

            def flush(self) -> None:
                file.flush()

        try:
            torch.save(content, Through())  # type: ignore[arg-type]
        except RuntimeError:
            if refused:
                raise refused[0] from None
            raise


def _content(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def random_states() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and PyTorch."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Let these generators go on from the states that `random_states` returned."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
