"""The precision of `auto` on processors: bf16 where they have it and the student gains by it, else float32, and what a resumption takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import angularkd
from angularkd.config import TrainConfig
from angularkd.system import devices
from angularkd.system.devices import (
    processor_has_bf16 as asked_of_the_processor,
)  # before it is replaced for these tests
from angularkd.training import Silent, precision
from angularkd.training.precision import answers_in, bf16_pays
from helpers import DIGITS, distillation_job, training_job

AT_32 = {**DIGITS, "image_size": 32, "model": "cifar/resnet8", "epochs": 1, "val_fraction": 0.45}
"""A student to which bf16 is worth it, and few images to train it on."""


@pytest.fixture
def bf16(monkeypatch) -> None:
    monkeypatch.setattr(devices, "processor_has_bf16", lambda: True)


@pytest.mark.parametrize(
    ("found", "has"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_the_processor_is_asked_for_its_instructions(monkeypatch, found, has) -> None:

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert asked_of_the_processor() == has
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not asked_of_the_processor(), "an old PyTorch, which cannot tell"


def test_auto_is_bf16_where_the_processor_has_it_and_the_student_gains(bf16, monkeypatch) -> None:
    opened = []
    monkeypatch.setattr(
        precision,
        "open_fabric",
        lambda *given, **more: opened.append((given, more)) or devices.open_fabric(*given, **more),
    )
    job = training_job(**AT_32)
    assert opened == [(("cpu", "bf16-mixed"), {"shared": True})], "of all processes, where there are several"
    assert job.config.precision == "bf16-mixed"
    with job.fabric.autocast():
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert job.predict(next(job.batches.epoch(0)).images[:2]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "more",
    [{"image_size": 8}, {"model": "cifar/mobilenet_v2_half"}, {"precision": "32-true"}],
    ids=["small", "grouped convolutions", "asked for"],
)
def test_elsewhere_it_is_float32(bf16, more) -> None:
    job = training_job(**{**AT_32, **more})
    assert job.config.precision == "32-true"
    with job.fabric.autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_a_processor_without_it_computes_in_float32() -> None:
    assert training_job(**AT_32).config.precision == "32-true"


def test_operations_that_cannot_be_counted_promise_nothing(bf16) -> None:
    student = training_job(**AT_32).student
    assert bf16_pays(student) and student.trace is not None
    assert not bf16_pays(replace(student, trace=replace(student.trace, flops=None)))
    student.module.layer1.append(nn.Conv2d(16, 16, 3, groups=16))
    assert not bf16_pays(student)


def test_evaluation_is_float32_unless_asked(bf16, digits_teacher) -> None:
    from angularkd.config import EvaluateConfig
    from angularkd.training import build_evaluation, open_dataset

    options = {"data": "digits", "model": str(digits_teacher), "device": "cpu"}
    for more, halved in (({}, False), ({"precision": "bf16-mixed"}, True)):
        config = EvaluateConfig.from_options(**options, **more)
        with build_evaluation(config, open_dataset(config)).fabric.autocast():
            assert torch.is_autocast_enabled("cpu") == halved


def test_a_cache_is_of_float32_whatever_the_student_is_in(digits_teacher, tmp_path) -> None:
    """So that one cache serves both, and holds what the teacher says to each image by itself."""
    options = {
        **DIGITS,
        "teacher": str(digits_teacher),
        "student": "cifar/resnet8",
        "cache": str(tmp_path),
        "augment": ("flip",),
    }
    stored = []
    for chosen in ("32-true", "bf16-mixed"):
        job = distillation_job(**options, precision=chosen)
        assert job.cached is not None and job.cached.about.precision == "32-true"
        batch = next(job.batches.epoch(0))
        with job.fabric.autocast():
            terms = job.distiller(batch.images, batch.labels, batch.indices, batch.view).terms
            live = job.cached.live_answers(batch.images, {})["logits"]
            stored.append(job.cached.cache.read(batch.view, batch.indices, batch.images.device)["logits"])
        assert live.dtype == torch.float32 and torch.equal(live.half().float(), stored[-1]) and terms
        job.cached.close()
    assert torch.equal(*stored) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("device", "precision", "expected"), [("cpu", "bf16-mixed", "32-true"), ("cuda", "bf16-mixed", "bf16-mixed")]
)
def test_on_a_gpu_a_cache_is_of_the_runs_precision(device, precision, expected) -> None:
    assert answers_in(TrainConfig(data="digits", model="cifar/resnet8", device=device, precision=precision)) == expected


def test_a_run_goes_on_in_the_precision_it_was_started_in(monkeypatch, tmp_path) -> None:
    """Also on a processor without bf16, which says what that costs."""
    logged: list[str] = []

    class Stopped(Silent):
        def step(self, *_: object) -> None:
            raise KeyboardInterrupt

    class Logged(Silent):
        def log(self, text: str) -> None:
            logged.append(text)

    run = {**AT_32, "out": str(tmp_path / "run")}
    with monkeypatch.context() as patch:
        patch.setattr(devices, "processor_has_bf16", lambda: True)
        with pytest.raises(KeyboardInterrupt):
            train(run, Stopped())
    assert stored(tmp_path / "run") == "bf16-mixed"
    done = train({**run, "resume": True}, Logged())
    assert done.results["precision"] == "bf16-mixed" == stored(tmp_path / "run")
    assert json.loads((tmp_path / "run/results.json").read_text())["precision"] == "bf16-mixed"
    assert [line for line in logged if "no instructions for bf16" in line] == [
        "note: this processor has no instructions for bf16, in which the run computes: a step takes two to four times as long as in 32-true"
    ]


def test_a_fitted_teacher_is_trained_in_the_precision_of_its_student(bf16, monkeypatch, tmp_path) -> None:
    """So that the run's configuration, which holds one, repeats both."""
    monkeypatch.setattr(precision, "bf16_pays", lambda model: model.spec == "cifar/resnet14")
    networks = {"teacher": "cifar/resnet14", "student": "cifar/resnet8"}
    fit = {"teacher_train": 1, "teacher_train_what": "all", "epochs": 1, "loss": {"ce": 1.0, "kd": 1.0}}
    run = angularkd.distill(**DIGITS, **networks, **fit, out=tmp_path / "run", report=False)
    assert stored(run.folder) == stored(run.folder / "teacher") == "32-true"
    again = angularkd.distill(**DIGITS, **networks, **fit, out=tmp_path / "run", report=False, resume=True)
    assert again.results["metrics"] == run.results["metrics"]


def train(options: dict, reporter: Silent):
    from angularkd.training import run_training

    return run_training(TrainConfig.from_options(**options), reporter)


def stored(folder: Path) -> str:
    return yaml.safe_load((folder / "config.yaml").read_text())["precision"]
