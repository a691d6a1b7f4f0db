"""The examples run as their headers say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import angularkd
from angularkd import Distiller, cli
from angularkd.config import DemoConfig, DistillConfig, TrainConfig
from angularkd.models import open_classifier
from helpers import DIGITS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FILE = EXAMPLES / "custom_model.py"
SMALL = {**DIGITS, "batch_size": 16, "epochs": 1, "lr": 0.05}


def test_the_commands_in_its_header_parse(monkeypatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    lines = [line.strip() for line in FILE.read_text().splitlines() if line.strip().startswith("angularkd ")]
    assert len(lines) == 3
    for line in lines:
        _, command, *arguments = shlex.split(line)
        config = cli.parse(
            {"train": TrainConfig, "distill": DistillConfig, "demo": DemoConfig}[command], command, arguments
        )
        if command == "distill":
            distilled = config.student
    assert config.student == distilled
    assert open_classifier(config.student, 10).module(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_it_knows_nothing_of_this_package() -> None:
    assert not re.search(r"^\s*(import|from) angularkd", FILE.read_text(), re.M)


@pytest.mark.parametrize("name", ["SmallNet", "tiny_net"])
def test_a_model_of_ones_own_is_distilled_and_opened_again(digits_teacher, tmp_path, name) -> None:
    run = angularkd.distill(
        **SMALL,
        teacher=str(digits_teacher),
        student=f"{FILE}:{name}",
        loss={"ce": 1.0, "kd": 1.0, "amd": 10.0},
        out=str(tmp_path / "student"),
    )
    metrics = run.results["metrics"]["last epoch"]
    assert metrics["accuracy"] > 0.5
    again = angularkd.evaluate(data="digits", model=str(run.folder), device="cpu", trust=str(FILE))
    assert again["metrics"][str(run.folder)]["accuracy"] == metrics["accuracy"]


def test_its_stages_are_found_by_themselves() -> None:
    teacher, student = open_classifier("cifar/resnet20", 10).module, open_classifier(f"{FILE}:SmallNet", 10).module
    distiller = Distiller(teacher, student, {"amd": 1.0}, example=torch.zeros(1, 3, 32, 32))
    assert [pair.student.path for pair in distiller.pairs] == ["stage1", "stage2", "stage3"]
