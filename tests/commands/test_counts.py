"""Nothing is done twice on the way: openings of the data, decodings, forwards and processes of a command are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import angularkd
from angularkd.config import DEFAULT_LOSSES
from angularkd.data import SOURCES, open_data, stores
from angularkd.features import trace
from angularkd.models import Traces, open_classifier
from angularkd.training import Silent
from angularkd.training.plan import MEASURED_IMAGES
from helpers import DIGITS, same, saved_weights

BATCH = 64
STUDENT = "cifar/resnet14"
"""Deeper than the teacher, by which their forwards are told apart."""
MODELS = {"cifar/resnet8": "teacher", STUDENT: "student"}
FOLDER = {"image_size": 8, "batch_size": 16, "device": "cpu", "epochs": 1, "lr": 0.01, "augment": ("flip",)}


class _Stop(Exception):
    """Ends a run behind its first step."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of class folders with 200 of the digits as files."""
    root = tmp_path_factory.mktemp("photos")
    digits = open_data("digits", image_size=(8, 8)).train
    counts: Counter[int] = Counter()
    for row, label in enumerate(digits.labels.tolist()):
        if counts[label] < 20:
            (root / str(label)).mkdir(exist_ok=True)
            Image.fromarray(digits[row][0]).save(root / str(label) / f"{counts[label]}.png")
            counts[label] += 1
    assert sum(counts.values()) == 200
    return root


@pytest.fixture
def openings(monkeypatch) -> list[str]:
    """What is opened, an entry for each time."""
    found: list[str] = []
    for name, row in SOURCES.items():

        def opened(argument: str, name: str = name, row: Any = row) -> Any:
            found.append(f"{name}:{argument}")
            return row.open(argument)

        monkeypatch.setitem(SOURCES, name, replace(row, open=opened))
    return found


@pytest.fixture
def decodings(monkeypatch) -> list[str]:
    """The names of the images that are decoded, an entry for each time."""
    found: list[str] = []
    decode = stores.decode_image
    monkeypatch.setattr(stores, "decode_image", lambda data, name: found.append(name) or decode(data, name))
    return found


@contextmanager
def counted_forwards() -> Iterator[dict[str, list[int]]]:
    """Collect the batch sizes of all forwards of teacher and student, in their order."""
    blocks = {len(open_classifier(name, 10).module.layer1): role for name, role in MODELS.items()}
    kind = type(open_classifier(STUDENT, 10).module)
    found: dict[str, list[int]] = {"teacher": [], "student": []}

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, kind):
            found[blocks[len(module.layer1)]].append(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def forwards_until_the_first_step(monkeypatch, teacher: Path, out: Path, **more: Any) -> dict[str, list[int]]:
    """Start a distillation, and return its forwards up to the end of its first optimiser step."""

    def stop(*_: object) -> None:
        raise _Stop

    losses = {"ce": 0.1, "kd": 0.9, "amd": 10.0}
    options = {**DIGITS, "teacher": str(teacher), "student": STUDENT, "loss": losses, **more}
    monkeypatch.setattr(Silent, "step", stop)
    with counted_forwards() as found, pytest.raises(_Stop):
        angularkd.distill(**options, epochs=1, out=str(out))
    return found


def measured_batches(split: str) -> list[int]:
    """The batches of the images on which the plan measures the teacher."""
    images = min(len(open_data("digits").splits[split]), MEASURED_IMAGES)
    return [BATCH] * (images // BATCH) + [images % BATCH]


@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_forwards_before_the_first_step(digits_teacher, tmp_path, monkeypatch, openings, cached) -> None:
    more = {"cache": str(tmp_path / "cache"), "augment": ("flip",)} if cached else {}
    found = forwards_until_the_first_step(monkeypatch, digits_teacher, tmp_path / "run", **more)
    assert openings == ["digits:"]
    assert found["student"] == [
        2,  # the dry forward: stages, shapes, head, classes and operations
        BATCH,  # gradient shares
        BATCH,  # training speed
        BATCH,  # the first step
    ]
    assert found["teacher"] == [
        2,  # the dry forward
        *measured_batches("val"),  # its accuracy, in the plan
        *measured_batches("train"),  # whether it has memorised its training images
        BATCH,  # gradient shares
        BATCH,  # training speed
        *([BATCH] if cached else []),  # its own speed, with a cache
        BATCH,  # the first step, which fills the cache where there is one
    ]


def test_a_default_objective_that_depends_on_the_teacher_asks_it_no_more_often(
    digits_teacher, tmp_path, monkeypatch
) -> None:
    chosen = forwards_until_the_first_step(monkeypatch, digits_teacher, tmp_path / "chosen", loss=())
    given = forwards_until_the_first_step(monkeypatch, digits_teacher, tmp_path / "given", loss=DEFAULT_LOSSES)
    assert sorted(chosen["teacher"]) == sorted(given["teacher"]) and len(given["teacher"]) > len(
        measured_batches("val")
    )
    assert chosen["student"] == given["student"]


def test_with_a_warm_cache_the_first_step_runs_the_student_alone(digits_teacher, tmp_path, monkeypatch) -> None:
    more = {"cache": str(tmp_path / "cache"), "augment": ("flip",)}
    cold = forwards_until_the_first_step(monkeypatch, digits_teacher, tmp_path / "cold", **more)
    warm = forwards_until_the_first_step(monkeypatch, digits_teacher, tmp_path / "warm", **more)
    assert warm["student"] == cold["student"] and warm["teacher"] == cold["teacher"][:-1]


@pytest.mark.parametrize(
    "more",
    [{}, {"cache": "cache"}, {"teacher_train": 1}, {"on_bad_image": "skip"}],
    ids=["live", "cached", "fitted", "skipping"],
)
def test_a_distillation_opens_once_and_decodes_each_image_once(
    digits_teacher, photos, tmp_path, monkeypatch, openings, decodings, more
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**FOLDER, "loss": {"ce": 1.0, "kd": 1.0, "amd": 1.0}, **more}
    run = angularkd.distill(
        data=str(photos), teacher=str(digits_teacher), student="cifar/resnet8", out=str(tmp_path / "run"), **options
    )
    assert run.results["metrics"]["last epoch"]["accuracy"] >= 0
    assert openings == [f":{photos}"]
    assert Counter(decodings) == {str(path): 1 for path in photos.rglob("*.png")}


DISTILLATION = {"student": STUDENT, "loss": {"ce": 1.0, "amd": 1.0}}
FITTING = {**DISTILLATION, "teacher_train": 1}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", {"model": STUDENT}),
        ("plan", DISTILLATION),
        ("distill", DISTILLATION),
        ("distill", {**DISTILLATION, "cache": "cache"}),
        ("plan", FITTING),
        ("distill", FITTING),
        ("distill", {**FITTING, "teacher_train_what": "all"}),
        ("distill", {**FITTING, "cache": "cache", "teacher_input_size": 12}),
    ],
    ids=["train", "plan", "live", "cached", "plan of fitting", "fitting the head", "fitting all", "cached and resized"],
)
def test_a_network_is_traced_by_one_dry_forward_however_often_it_is_built(
    digits_teacher, photos, tmp_path, monkeypatch, command, options
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = {"teacher": str(digits_teacher)} if "student" in options else {}
    with counted_forwards() as found:
        getattr(angularkd, command)(data=str(photos), **{**FOLDER, "batch_size": 50}, **options, **teacher)
    # No batch has two images: those of a dry forward.
    assert found["student"].count(2) == 1
    assert found["teacher"].count(2) == len(teacher)


def test_the_fitted_teacher_and_its_student_start_as_if_each_had_been_traced(
    digits_teacher, photos, tmp_path, monkeypatch
) -> None:
    options = {**FOLDER, "batch_size": 50, "data": str(photos), "teacher": str(digits_teacher), **FITTING}
    once = angularkd.distill(**options, out=str(tmp_path / "once"))
    monkeypatch.setattr(Traces, "of", lambda self, classifier, images: trace(classifier.module, images))
    often = angularkd.distill(**options, out=str(tmp_path / "often"))
    assert same(saved_weights(once.folder), saved_weights(often.folder))
    assert same(saved_weights(once.folder / "teacher"), saved_weights(often.folder / "teacher"))


@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_two_workers_are_two_processes_in_all(digits_teacher, photos, tmp_path, monkeypatch, openings, cached) -> None:
    started: list[str] = []
    start = BaseProcess.start
    monkeypatch.setattr(BaseProcess, "start", lambda self: started.append(self.name) or start(self))
    options = {**FOLDER, "epochs": 2, "loss": {"ce": 1.0, "kd": 1.0, "amd": 1.0}}
    more = {"cache": str(tmp_path / "cache")} if cached else {}
    run = angularkd.distill(
        data=str(photos),
        teacher=str(digits_teacher),
        student="cifar/resnet8",
        loader="workers",
        workers=2,
        out=str(tmp_path / "run"),
        **options,
        **more,
    )
    assert run.results["epochs"] == 2 and openings == [f":{photos}"]
    assert len(started) == 2


def test_the_counts_see_what_they_count(digits_teacher) -> None:
    teacher, student = open_classifier(str(digits_teacher), 10).module, open_classifier(STUDENT, 10).module
    with counted_forwards() as found, torch.no_grad():
        teacher.eval()(torch.zeros(3, 3, 8, 8)), student.eval()(torch.zeros(5, 3, 8, 8))
    assert found == {"teacher": [3], "student": [5]}
