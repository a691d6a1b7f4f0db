"""Checkpoints: damage is noticed, the one before takes over, and every generator goes on where it was."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import angularkd
from angularkd import InputError
from angularkd.system.files import write_text
from angularkd.training import Silent, TrainingState
from angularkd.training.checkpoint import Checkpointer
from helpers import DIGITS, same, saved_weights


def checkpointer(folder: Path, **changes: Any) -> Checkpointer:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    parts = {
        "path": folder / "checkpoints/last.ckpt",
        "previous": folder / "checkpoints/previous.ckpt",
        "distiller": module,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        "scaler": SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None),
        "identity": {"command": "TrainConfig", "epochs": 3},
        "fingerprints": {"the train images": "a"},
    }
    return Checkpointer(**{**parts, **changes})


def saved(folder: Path, epochs: int = 2) -> Checkpointer:
    """A checkpointer with so many epochs behind it, the weights of the n-th all being n."""
    kept = checkpointer(folder)
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            for parameter in kept.distiller.parameters():
                parameter.fill_(epoch)
        kept.save(
            TrainingState(epoch=epoch, best_epoch=1, best_weights={"weight": torch.ones(2, 3)}, seconds=2.0 * epoch)
        )
    return kept


def load(folder: Path, **changes: Any) -> tuple[TrainingState, list[str], float]:
    """The state that is loaded, what is logged, and the weight."""
    into, notes = checkpointer(folder, **changes), []
    state = into.load(notes.append)
    return state, notes, into.distiller.weight[0, 0].item()


def test_what_was_saved_is_loaded(tmp_path) -> None:
    saved(tmp_path)
    state, notes, weight = load(tmp_path)
    assert (state.epoch, state.best_epoch, state.seconds, weight, notes) == (2, 1, 4.0, 2.0, [])
    assert torch.equal(state.best_weights["weight"], torch.ones(2, 3))


def test_no_flipped_byte_changes_what_is_loaded(tmp_path) -> None:
    saved(tmp_path, 1)
    file = tmp_path / "checkpoints/last.ckpt"
    whole = file.read_bytes()
    places = np.random.default_rng(0).choice(len(whole), 300, replace=False)
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        file.write_bytes(bytes(damaged))
        try:
            _, notes, weight = load(tmp_path)
        except InputError:
            refused += 1
        else:
            assert (weight, notes) == (1.0, []), f"byte {place}"
    assert refused > 100


DAMAGES: dict[str, Any] = {
    "is empty": lambda file: file.write_bytes(b""),
    "is damaged": lambda file: file.write_bytes(file.read_bytes()[:-300]),
    "is missing": lambda file: file.unlink(),
    "is none of a run": lambda file: torch.save({"weight": torch.ones(2)}, file),
    "is damaged, or none": lambda file: file.write_text("notes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_takes_over(tmp_path, damage) -> None:
    saved(tmp_path)
    DAMAGES[damage](tmp_path / "checkpoints/last.ckpt")
    state, notes, weight = load(tmp_path)
    assert (state.epoch, weight) == (1, 1.0)
    assert len(notes) == 1 and damage in notes[0] and "goes on from the checkpoint before it, of epoch 1" in notes[0]
    checkpointer(tmp_path).save(TrainingState(epoch=2))
    DAMAGES["is empty"](tmp_path / "checkpoints/last.ckpt")
    assert load(tmp_path)[0].epoch == 1, "the damaged one did not take the place of the sound one"


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_sound_one_before_it_there_is_one_line(tmp_path, damage) -> None:
    saved(tmp_path, 1)
    DAMAGES[damage](tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(InputError, match=f"{damage}.*remove the run's folder and start anew"):
        load(tmp_path)


def test_a_folder_in_its_place_is_named(tmp_path) -> None:
    kept = saved(tmp_path)
    kept.path.unlink()
    kept.path.mkdir()
    with pytest.raises(
        InputError, match=r"last\.ckpt is a folder: remove it; the run then goes on from the checkpoint"
    ):
        load(tmp_path)
    with pytest.raises(InputError, match=r"last\.ckpt is a folder, and a file is to be written there: remove it"):
        kept.save(TrainingState(epoch=3))
    with pytest.raises(InputError, match="is a folder, and a file"):
        write_text(kept.path, "text")
    kept.path.rmdir()
    assert load(tmp_path)[0].epoch == 1


def test_one_of_another_run_is_refused_and_left(tmp_path) -> None:
    saved(tmp_path)
    with pytest.raises(InputError, match=r"was started with other options \(epochs\)"):
        load(tmp_path, identity={"command": "TrainConfig", "epochs": 4})
    with pytest.raises(InputError, match="the train images changed since the run in"):
        load(tmp_path, fingerprints={"the train images": "b"})
    assert load(tmp_path)[0].epoch == 2


def test_every_generator_goes_on_where_it_was(tmp_path) -> None:
    def drawn() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(1))]

    random.seed(3), np.random.seed(3), np.random.randn(), random.gauss(0, 1)
    kept = checkpointer(tmp_path)
    kept.save(TrainingState(epoch=1))
    expected = drawn()
    random.seed(9), np.random.seed(9)
    load(tmp_path)
    assert drawn() == expected


MODEL = """
import random
import numpy as np
import torch
from torch import nn


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        noise = random.random() + np.random.rand() if self.training else 1.0
        return self.head(torch.relu(self.conv(images)).mean((2, 3)) * noise)


def build():
    return Noisy()
"""


class _Stop(Silent):
    """Ends the run after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.last = epoch

    def epoch(self, row: dict[str, Any]) -> None:
        if row["epoch"] == self.last:
            raise KeyboardInterrupt


def train(folder: Path, stop_after: int | None = None, **more: Any) -> angularkd.Run:
    from angularkd.config import TrainConfig
    from angularkd.training import run_training

    config = TrainConfig.from_options(
        **{**DIGITS, "batch_size": 256}, model=f"{folder / 'model.py'}:build", epochs=3, augment=("crop",), **more
    )
    return run_training(config, Silent() if stop_after is None else _Stop(stop_after))


def test_a_model_that_draws_from_python_and_numpy_ends_with_the_same_weights(tmp_path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    whole = train(tmp_path, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 2, out=tmp_path / "stopped")
    best = tmp_path / "stopped/checkpoints/best.safetensors"
    expected = load_file(best)
    best.write_bytes(best.read_bytes()[:100])
    (tmp_path / "stopped/checkpoints/.last.ckpt.x7").write_text("half")
    resumed = train(tmp_path, out=tmp_path / "stopped", resume=True)
    assert same(saved_weights(resumed.folder), saved_weights(whole.folder))
    assert resumed.results["metrics"] == whole.results["metrics"]
    assert not list((tmp_path / "stopped/checkpoints").glob(".*"))
    if resumed.results["selected_epoch"] <= 2:
        assert same(load_file(best), expected)
    assert same(load_file(best), saved_weights(whole.folder, "checkpoints/best.safetensors"))


def test_seconds_are_those_of_all_parts(tmp_path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 1, out=tmp_path / "run")
    file = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    assert 0 < content["state"]["seconds"] < 600
    content["state"]["seconds"] = 1000.0
    torch.save(content, file)
    assert 1000 < train(tmp_path, out=tmp_path / "run", resume=True).results["seconds"] < 1600


def test_a_changed_file_of_the_model_is_noticed(tmp_path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 1, out=tmp_path / "run")
    (tmp_path / "model.py").write_text(MODEL.replace("else 1.0", "else 2.0"))
    with pytest.raises(InputError, match=r"^the code of the model changed since the run in"):
        train(tmp_path, out=tmp_path / "run", resume=True)


def test_half_of_what_torchrun_says_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"this is one of 2 processes \(WORLD_SIZE\), and not which \(RANK"):
        train(tmp_path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
