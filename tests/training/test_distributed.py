"""Runs in two processes: they compute what one does, end in one line, and go on to the same bits."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn

import angularkd
from angularkd import Distiller, cli
from angularkd.cli import running
from angularkd.system import ranks
from angularkd.system.devices import open_fabric
from angularkd.training.replica import Replica, average_statistics
from angularkd.training.sync_batchnorm import synchronise
from helpers import same
from killed_runs import NET, InProcess, check_equal
from several_processes import command, end, start

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this PyTorch has no gloo"
)
SMALL = ("--image-size", 8, "--batch-size", 128, "--device", "cpu", "--workers", 0, "--no-report")
LEARNED = ("--loss", "ce=1", "--loss", "vid=0.1", "--loss", "crd=0.1,num_negatives=8", "--ema", 0.9)
ON_MAPS = ("--loss", "ce=1", "--loss", "kd=1", "--loss", "at=1", "--augment", "flip", "--ema", 0.9)
BATCH = 12
LABELS = torch.arange(BATCH) % 3
IMAGES = torch.rand(BATCH, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FAULTS = """
import os

class Faulty(Net):
    def __init__(self):
        super().__init__(4)
        self.steps = 0

    def forward(self, images):
        self.steps += int(self.training)
        fault = os.environ.get("FAULT") if os.environ.get("RANK") == "1" and self.training and self.steps == 4 else None
        if fault == "raise":
            raise ValueError("the second process fails")
        return super().forward(images) * (float("nan") if fault == "nan" else 1.0)

def faulty():
    return Faulty()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks, and a teacher that was trained for a moment."""
    made = tmp_path_factory.mktemp("distributed")
    (made / "net.py").write_text(NET + FAULTS)
    options = {"image_size": 8, "batch_size": 128, "device": "cpu", "workers": 0, "report": False, "lr": 0.3}
    angularkd.train(data="digits", model=f"{made / 'net.py'}:large", epochs=4, out=made / "teacher", **options)
    return made


def distilling(folder: Path, *options: object) -> tuple[object, ...]:
    net = folder / "net.py"
    networks = ("--teacher", folder / "teacher", "--student", f"{net}:small", "--trust", net)
    return ("distill", "digits", *SMALL, *networks, "--checkpoint-every", "3steps", *options)


def wait_for(file: Path, processes: list[InProcess]) -> None:
    while not file.exists() and all(process.running for process in processes):
        time.sleep(0.01)
    assert file.exists(), [process.said for process in processes]


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).double()


def gradients(losses: dict[str, object], synchronised: bool, out: Path) -> None:
    """Save the gradients of a batch, whole and in the parts of two processes, and what is left of a second step in each."""
    torch.set_num_threads(1)
    with ranks.joined("cpu"):
        torch.manual_seed(0)
        made = Distiller(network(0), network(1), losses, example=IMAGES, train_labels=LABELS).double().train()
        synchronise(made.student, "the student")
        if not synchronised:
            for part in made.student.modules():
                part.train(not isinstance(part, nn.modules.batchnorm._BatchNorm))
        with ranks.alone():
            whole = copy.deepcopy(made)
            whole(IMAGES, LABELS, torch.arange(BATCH)).total.backward()
        fabric = open_fabric("cpu", "32-true", shared=True)
        replica, optimizer = fabric.setup(
            Replica(made), torch.optim.SGD(made.parameters(), lr=0.1), move_to_device=False
        )
        mine = torch.arange(BATCH).chunk(2)[ranks.number()]
        for step in range(2):
            fabric.backward(replica(IMAGES[mine], LABELS[mine], mine, None).total)
            if step == 0:
                pairs = zip(whole.named_parameters(), made.parameters(), strict=True)
                found = {name: (one.grad, other.grad) for (name, one), other in pairs if one.grad is not None}
                statistics = [dict(part.student.named_buffers()) for part in (whole, made)]
                torch.save((found, copy.deepcopy(statistics)), out / f"gradients-{ranks.number()}.pt")
            optimizer.step()
            average_statistics(made)
            optimizer.zero_grad()
        torch.save(made.state_dict(), out / f"after-{ranks.number()}.pt")


@pytest.mark.parametrize("synchronised", [True, False], ids=["synchronised", "still"])
def test_two_halves_have_the_gradient_of_the_whole(tmp_path, synchronised) -> None:
    losses = {"ce": 1.0, "kd": 1.0, "at": 10.0, "vid": 0.1}
    codes, lines = end(start(partial(gradients, losses, synchronised, tmp_path), tmp_path))
    assert codes == [0, 0], lines
    for rank in range(2):
        found, (whole, parts) = torch.load(tmp_path / f"gradients-{rank}.pt")
        assert len(found) > 10
        for one, other in found.values():
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
        for name in whole if synchronised else ():
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-9, atol=1e-12)
    assert same(*(torch.load(tmp_path / f"after-{rank}.pt") for rank in range(2)))


def test_learned_parts_memories_and_statistics_stay_equal(tmp_path) -> None:
    losses = {"ce": 1.0, "vid": 0.1, "fitnet": 1.0, "crd": {"weight": 0.1, "num_negatives": 4}}
    codes, lines = end(start(partial(gradients, losses, True, tmp_path), tmp_path))
    assert codes == [0, 0], lines
    after = [torch.load(tmp_path / f"after-{rank}.pt") for rank in range(2)]
    assert any("student_memory" in name for name in after[0])
    assert same(*after)


def test_a_killed_process_ends_all_and_the_restarted_run_ends_with_the_same_bits(folder) -> None:
    options = (*LEARNED, "--epochs", 2)
    codes, lines = end(start(command(*distilling(folder, *options, "--out", folder / "learned")), folder))
    assert (codes, lines) == ([0, 0], [])
    killed = start(command(*distilling(folder, *options, "--out", folder / "killed")), folder)
    wait_for(folder / "killed/checkpoints/last.ckpt", killed)
    killed[1].kill(signal.SIGKILL)
    codes, lines = end(killed)
    assert codes == [74, -signal.SIGKILL]
    assert len(lines) == 1
    assert "another process of this run is gone" in lines[0]
    assert "--resume" in lines[0]
    restarted = {"TORCHELASTIC_RESTART_COUNT": "1"}
    again = command(*distilling(folder, *options, "--out", folder / "killed"))
    codes, lines = end(start(again, folder, environment=restarted))
    assert (codes, lines) == ([0, 0], [])
    check_equal(folder / "killed", folder / "learned")


def test_a_cached_run_is_that_of_one_process_and_is_stopped_and_goes_on_as_one(folder) -> None:
    cached = (*ON_MAPS, "--epochs", 3)
    one, two, stopped = (folder / name for name in ("one", "two", "stopped"))
    for out, processes in ((one, 1), (two, 2)):
        run = command(*distilling(folder, *cached, "--cache", f"{out}-cache", "--out", out))
        codes, lines = end(start(run, folder, processes=processes))
        assert (set(codes), lines) == ({0}, [])
    for file in Path(f"{one}-cache").rglob(
        "*.f16"
    ):  # one process stores what its batches ask for, two all of these views
        other = Path(f"{two}-cache") / file.relative_to(f"{one}-cache")
        there = np.fromfile(file.with_suffix(".done"), np.uint8) > 0
        mine, theirs = (np.fromfile(one, np.float16).reshape(len(there), -1)[there] for one in (file, other))
        assert len(mine) > 1000
        assert np.array_equal(mine, theirs)
    for alone, together in zip(rows(one), rows(two), strict=True):
        assert all(alone[name] == together[name] for name in ("epoch", "step", "lr"))
    assert rows(two)[0]["loss"] == pytest.approx(rows(one)[0]["loss"], rel=0.02)
    counts = [json.loads((out / "results.json").read_text())["images"] for out in (one, two)]
    assert counts[0] == counts[1]

    again = distilling(folder, *cached, "--cache", f"{two}-cache", "--out", stopped)
    processes = start(command(*again), folder)
    wait_for(stopped / "checkpoints/last.ckpt", processes)
    processes[1].kill(signal.SIGTERM)  # the other was asked nothing
    codes, lines = end(processes)
    assert codes == [143, 143]
    assert lines == ["angularkd: stopped by SIGTERM; all is saved: it goes on where it was with --resume"]
    codes, lines = end(start(command(*again, "--resume"), folder, processes=1))
    assert codes == [2]
    assert len(lines) == 1
    assert "is of 2 processes, and would go on in 1" in lines[0]
    codes, lines = end(start(command(*again, "--resume"), folder))
    assert (codes, lines) == ([0, 0], [])
    check_equal(stopped, two)


@pytest.mark.parametrize("decision", ["skip", "stop"])
def test_what_is_not_finite_in_one_process_acts_on_all(folder, decision) -> None:
    net, out = folder / "net.py", folder / f"nan-{decision}"
    arguments = ("train", "digits", *SMALL, "--model", f"{net}:faulty", "--epochs", 1, "--out", out)
    run = command(*arguments, "--on-nonfinite", decision)
    codes, lines = end(start(run, folder, environment={"FAULT": "nan"}))
    if decision == "skip":
        assert (codes, lines) == ([0, 0], [])
        assert rows(out)[0]["skipped_steps"] == 1
    else:
        assert codes == [2, 2]
        assert len(lines) == 1
        assert "is not finite in epoch 1, at step 4" in lines[0]
    step = json.loads((out / "nonfinite.json").read_text())
    assert len(set(step["indices"])) == 128


def test_an_error_of_one_process_ends_all_in_one_line(folder) -> None:
    arguments = ("train", "digits", *SMALL, "--model", f"{folder / 'net.py'}:faulty", "--out", folder / "raised")
    codes, lines = end(start(command(*arguments), folder, environment={"FAULT": "raise"}))
    assert codes == [70, 70]
    assert len(lines) == 1
    assert "ValueError: the second process fails" in lines[0]
    assert not (folder / "raised").exists()


def test_devices_starts_as_many_processes(folder) -> None:
    arguments = ("train", "digits", *SMALL, "--model", f"{folder / 'net.py'}:small", "--out", folder / "devices")
    line = [sys.executable, "-m", "angularkd", *map(str, arguments), "--devices", "2", "--epochs", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    odd = subprocess.run(
        [*line, "--batch-size", "7"], env=environment, capture_output=True, text=True, cwd=folder, check=False
    )
    assert odd.returncode == 2
    assert odd.stderr.count("\n") == 1
    assert "--batch-size is that of all 2 processes together" in odd.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"devices": 2}, r"start them by torchrun --nproc-per-node 2"),
        ({"sync_batchnorm": True}, r"`sync_batchnorm` is of several processes, and this is one"),
    ],
)
def test_devices_are_started_by_the_command_line_alone(folder, options, complaint) -> None:
    with pytest.raises(angularkd.InputError, match=complaint):
        angularkd.train(data="digits", model=f"{folder / 'net.py'}:small", device="cpu", out=folder / "no", **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--devices", "1000", "--batch-size", "4000"],
            r"--devices 1000 is more than this machine has, which is \d+ processors",
        ),
        (
            ["--devices", "2", "--batch-size", "7"],
            "--batch-size is that of all 2 processes together, and 7 images are no equal",
        ),
    ],
)
def test_what_cannot_be_started_is_refused_before_it_is(options, complaint, monkeypatch, capsys) -> None:
    monkeypatch.setattr(running, "launch", lambda *_: pytest.fail("processes were started"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "digits", "--model", "cifar/resnet8", "--device", "cpu", *options])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and re.search(complaint, said) and said.count("\n") == 1


def test_what_cannot_be_synchronised_is_named() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(angularkd.InputError, match=r"has one of the class Own: leave it out"):
        synchronise(nn.Sequential(Own(4)), "the student")


def test_a_command_of_one_process_refuses_to_be_one_of_several(folder) -> None:
    codes, lines = end(start(command("evaluate", "digits", "--model", folder / "teacher"), folder))
    assert codes == [2, 2]
    assert len(lines) == 1
    assert "angularkd evaluate is of one process, and this is one of 2" in lines[0]
