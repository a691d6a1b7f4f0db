"""Steps that are not finite: where the first such number comes from, what is written down, and what replay shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import angularkd
from angularkd import InputError
from angularkd.commands.replay import run_replay
from angularkd.config import ReplayConfig
from angularkd.losses.logit import HintonKD
from angularkd.runs import RunFolder
from angularkd.training import replay
from angularkd.training.nonfinite import NonfiniteGuard, StepRecord
from helpers import DIGITS
from killed_runs import NET, OPTIONS, prepare

BROKEN = """

class Broken(Net):
    def __init__(self, where, from_step=0, value=float("nan")):
        super().__init__(4)
        self.where, self.from_step, self.value = where, from_step, value
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        self.step += self.training
        bad = self.training and int(self.step) > self.from_step
        if bad and self.where == "layer1":
            images = images * self.value
        second = self.layer2(self.layer1(images))
        logits = self.head(second.mean((2, 3)))
        return logits * self.value if bad and self.where == "logits" else logits

def at_layer1(): return Broken("layer1", 3)
def at_logits(): return Broken("logits", 14)
def sometimes(): return Sometimes(4)

class Sometimes(Net):
    forwards = 0

    def forward(self, images):
        self.forwards += self.training
        logits = super().forward(images)
        return logits * float("nan") if self.training and self.forwards % 4 == 1 else logits
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("broken")
    prepare(made)
    (made / "broken.py").write_text(NET + BROKEN)
    return made


def options(folder: Path, **more: Any) -> dict[str, Any]:
    named = {"teacher": str(folder / "teacher"), "trust": (str(folder / "net.py"),)}
    losses = {"ce": 1.0, "kd": 1.0, "amd": 10.0}
    return {**OPTIONS, **named, "student": f"{folder / 'broken.py'}:at_layer1", "loss": losses, **more}


def test_a_student_that_breaks_is_named_with_its_stage_and_run_again(folder, tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(
        InputError,
        match=r"not finite in epoch 1, at step 4: the student's map .* of layer1 is not finite \(8,192 of 8,192 numbers\)",
    ):
        angularkd.distill(**options(folder, out=out, checkpoint_every="2steps"))
    record = json.loads((out / "nonfinite.json").read_text())
    assert (record["epoch"], record["step"], record["batch"], record["view"], record["command"]) == (
        0,
        4,
        3,
        0,
        "DistillConfig",
    )
    assert len(record["indices"]) == 128 and record["terms"] == ["ce", "kd", "amd"]
    kept = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    assert kept["state"]["step"] == 2, "the last checkpoint is of finite numbers"
    trust = (str(folder / "net.py"), str(folder / "broken.py"))
    found = replay(RunFolder(out), "cpu", trust)
    assert (found.epoch, found.step, found.view, list(found.indices)) == (1, 4, 0, record["indices"])
    assert found.diagnosis.first.part == "student" and found.diagnosis.first.name.endswith("of layer1")
    assert list(found.rows) == record["indices"]
    console = Console(record=True, width=120)
    run_replay(ReplayConfig(run=str(out), trust=trust, device="cpu"), console)
    text = console.export_text()
    assert "Step 4, in epoch 1: 128 images, view 0" in text and "the loss amd" in text
    named = ", ".join(map(str, record["indices"][:10]))
    assert f"of the rows {named} and 118 more of the training images" in text and "lower --lr" in text


def test_in_a_later_epoch_without_a_checkpoint_within_it(folder, tmp_path) -> None:
    run = {
        **options(folder),
        "student": f"{folder / 'broken.py'}:at_logits",
        "checkpoint_every": "1epoch",
        "out": tmp_path / "run",
    }
    with pytest.raises(
        InputError,
        match=r"epoch 2, at step 15: the student's logits are not finite \(1,280 of 1,280 numbers\): lower `lr`",
    ):
        angularkd.distill(**run)
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state"]["epoch"] == 1
    with pytest.raises(InputError, match="at step 15"):
        angularkd.distill(**run, resume=True)


def test_steps_are_left_out_and_counted(folder, tmp_path) -> None:
    run = angularkd.train(
        **{**OPTIONS, "model": f"{folder / 'broken.py'}:sometimes", "out": tmp_path / "run", "on_nonfinite": "skip"}
    )
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["skipped_steps"] > 0 and math.isfinite(row["loss"]) for row in rows)
    assert math.isfinite(run.results["metrics"]["last epoch"]["nll"])


def test_a_loss_that_breaks_on_finite_features_is_named(folder, tmp_path, monkeypatch) -> None:
    usual = HintonKD.forward
    monkeypatch.setattr(HintonKD, "forward", lambda self, *signals: usual(self, *signals) / 0.0)
    with pytest.raises(InputError, match="at step 1: the loss kd is not finite: give that loss a smaller weight"):
        _trained_without_plan(folder, tmp_path, monkeypatch)


def test_a_gradient_that_breaks_is_named_with_its_loss(folder, tmp_path, monkeypatch) -> None:
    usual = HintonKD.forward

    def forward(self: HintonKD, student: Tensor, teacher: Tensor) -> Tensor:
        return usual(self, student, teacher) + (student - student.detach()).abs().sum().sqrt()

    monkeypatch.setattr(HintonKD, "forward", forward)
    with pytest.raises(InputError, match=r"at step 1: the gradient of the loss kd at \S+ is not finite"):
        _trained_without_plan(folder, tmp_path, monkeypatch)


def _trained_without_plan(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distil; the plan, which finds such a loss before the first step, is left out."""
    monkeypatch.setattr("angularkd.training.run.make_plan", lambda job, epochs: None)
    angularkd.distill(**{**options(folder), "student": f"{folder / 'net.py'}:small", "out": out / "run"})


class Ruined(nn.Module):
    """A teacher whose logits are not numbers for images whose mean is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.conv, self.head, self.threshold = nn.Conv2d(3, 4, 3), nn.Linear(4, 10), threshold

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.conv(images).relu().mean((2, 3)))
        return torch.where((images.mean((1, 2, 3)) > self.threshold)[:, None], math.nan, logits)


def test_a_teacher_that_gives_no_numbers_is_named_in_the_plan(folder) -> None:
    torch.manual_seed(0)
    teacher = Ruined(0.0)
    with pytest.raises(
        InputError,
        match=r"^the teacher gives NaN or infinite logits for [\d,]+ of 143 validation images: check its weights",
    ):
        angularkd.plan(
            **{**DIGITS, "teacher": teacher, "student": f"{folder / 'net.py'}:small", "loss": {"ce": 1.0, "kd": 1.0}}
        )


def test_a_teacher_that_gives_no_numbers_is_named_in_the_run(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("angularkd.training.run.make_plan", lambda job, epochs: None)
    with pytest.raises(
        InputError, match=r"the teacher's logits are not finite .*: check its weights and its normalization"
    ):
        angularkd.distill(
            **{
                **OPTIONS,
                "teacher": Ruined(0.0),
                "student": f"{folder / 'net.py'}:small",
                "loss": {"ce": 1.0, "kd": 1.0},
            },
            out=tmp_path / "run",
        )


def test_there_is_nothing_to_run_again_in_other_folders(tmp_path) -> None:
    with pytest.raises(InputError, match=r"there is nothing to run again in .*: the folder of a run whose loss"):
        replay(RunFolder(tmp_path))


def test_a_device_is_asked_now_and_then_and_names_the_first_such_step() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=True)
    guard = NonfiniteGuard(module, optimizer, torch.device("cpu"))
    guard._at_once = False
    weights = []
    for step in range(1, 7):
        loss = module(torch.ones(1, 2)).sum() * (math.nan if step in (3, 5) else 1.0)
        optimizer.zero_grad()
        loss.backward()
        assert not guard.found(StepRecord(0, step, step - 1, 1, [torch.tensor([step])], 0), [loss])
        optimizer.step()
        weights.append(module.weight.detach().clone())
    assert guard.due(50) and not guard.due(49)
    record = guard.read()
    assert record is not None and record.step == 3 and record.as_dict()["indices"] == [3]
    assert all(torch.equal(weight, weights[1]) for weight in weights[2:]), "the weights stay those before it"
    assert not torch.equal(weights[0], weights[1])
