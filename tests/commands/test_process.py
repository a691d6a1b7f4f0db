"""A library call leaves its caller's process alone; what the command line wants of its process, it sets itself."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import angularkd
from angularkd import cli
from angularkd.cli import running
from angularkd.system import memory
from helpers import DIGITS

LEVEL = 17
"""Of loggers, which no library sets."""


def existing_loggers() -> dict[str, logging.Logger]:
    known = logging.root.manager.loggerDict.items()
    return {name: logger for name, logger in known if isinstance(logger, logging.Logger)}


@pytest.fixture
def _unusual_process(monkeypatch) -> Iterator[None]:
    """Settings that nobody else makes, so that a call which makes its own is found, also where it was made before."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    levels = [(logger, logger.level) for logger in existing_loggers().values()]
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(logging.root.manager, "disable", LEVEL)
    for logger, _ in levels:
        logger.setLevel(LEVEL)
    random.seed(11)
    np.random.seed(12)
    torch.manual_seed(1234)
    torch.rand(3), np.random.rand(3), random.random()
    yield
    for logger, level in levels:
        logger.setLevel(level)
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def state_of_the_process() -> dict[str, Any]:
    """What a caller may have set, and would miss."""
    loggers = existing_loggers()
    return {
        "random": random.getstate(),
        "numpy": [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "torch's seed": torch.initial_seed(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "signals": (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD)),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "loggers": {name: (logger.level, logger.disabled, logger.propagate) for name, logger in loggers.items()},
        "warnings": list(warnings.filters),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "default dtype": torch.get_default_dtype(),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
        ),
        "kept memory": memory._keeps_freed_memory,
    }


@pytest.fixture
def allocator_calls(monkeypatch) -> list[str]:
    """What is asked of the C library, by name; nothing of it is done."""
    calls: list[str] = []

    def of_c_library(name: str) -> Callable[..., int]:
        return lambda *_: calls.append(name) or 1

    monkeypatch.setattr(memory, "_of_c_library", of_c_library)
    monkeypatch.setattr(memory, "_keeps_freed_memory", False)
    for name in memory.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.usefixtures("_unusual_process")
@pytest.mark.parametrize("name", ["train", "distill", "distill fitting", "plan", "evaluate", "explain"])
def test_a_library_call_leaves_the_process_as_it_was(name, digits_teacher, tmp_path, allocator_calls) -> None:
    teacher = {"teacher": str(digits_teacher), "student": "cifar/resnet8"}
    distill = {**DIGITS, **teacher, "epochs": 1, "loss": {"ce": 1.0, "kd": 1.0, "amd": 10.0}, "out": tmp_path / "run"}
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(image)
    calls: dict[str, Callable[[], object]] = {
        "train": lambda: angularkd.train(**DIGITS, model="cifar/resnet8", epochs=1, out=tmp_path / "run"),
        "distill": lambda: angularkd.distill(**distill, mixup=0.2, ema=0.9),
        "distill fitting": lambda: angularkd.distill(
            **distill, teacher_train=1, loader="workers", workers=1, augment=("flip",), cache=tmp_path / "cache"
        ),
        "plan": lambda: angularkd.plan(**distill),
        "evaluate": lambda: angularkd.evaluate(data="digits", model=str(digits_teacher), device="cpu"),
        "explain": lambda: angularkd.explain(image=str(image), image_size=8, out=tmp_path / "a.png", **teacher),
    }
    before = state_of_the_process()
    calls[name]()
    after = state_of_the_process()
    assert after["torch's seed"] == 1234
    after["loggers"] = {logger: after["loggers"][logger] for logger in before["loggers"]}  # others are new
    for part, value in before.items():
        assert after[part] == value, part
    assert allocator_calls == []


def test_the_random_state_is_put_back_after_an_error_too(tmp_path) -> None:
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    with pytest.raises(angularkd.InputError, match="no trained weights"):
        angularkd.plan(**DIGITS, teacher="cifar/resnet8", student="cifar/resnet8")
    assert torch.equal(torch.get_rng_state(), before) and torch.initial_seed() == 1234


def test_the_caller_s_random_state_decides_nothing(digits_teacher) -> None:
    """Beside it, each call seeds generators of its own: two plans have the same gradients whatever was drawn between them."""
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet14", "loss": {"ce": 1.0, "kd": 1.0}}
    shares = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        shares.append(angularkd.plan(**options).gradient_share)
    assert shares[0] == shares[1]


class _Asked(BaseException):
    """Raised where the command line asks to keep freed memory, so that nothing else is done."""


MODELS = ["--teacher", "a", "--student", "b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits", "--model", "cifar/resnet8"],
        ["distill", "digits", *MODELS],
        ["plan", "digits", *MODELS],
        ["evaluate", "digits", "--model", "cifar/resnet8"],
        ["cache", "fill", "digits", *MODELS, "--cache", "c"],
        ["demo"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_command_line_keeps_freed_memory_on_the_cpu(arguments, tmp_path, monkeypatch) -> None:
    def asked() -> bool:
        raise _Asked

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "keep_freed_memory", asked)
    with pytest.raises(_Asked):
        cli.main([*arguments, "--device", "cpu"] if arguments != ["demo"] else arguments)
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_the_command_line_leaves_the_allocator_alone(allocator_calls) -> None:
    running._own_process("cuda")
    assert allocator_calls == []
    running._own_process("cpu")
    assert allocator_calls == ["mallopt", "mallopt"]
