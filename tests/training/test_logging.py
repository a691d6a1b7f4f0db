"""TensorBoard and Fabric's other loggers: the numbers of each epoch, under names that sort."""

from __future__ import annotations

from typing import Any

import pytest
from lightning_fabric.loggers import CSVLogger, Logger

import angularkd
from angularkd.errors import InputError
from helpers import DIGITS

RUN: dict[str, Any] = {**DIGITS, "model": "cifar/resnet8", "epochs": 2}


class Recorded(Logger):
    """A logger that remembers what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.options: dict[str, Any] = {}
        self.status = ""

    name, version = "recorded", 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self.options = params

    def finalize(self, status: str) -> None:
        self.status = status


def test_tensorboard_gets_every_epoch(tmp_path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = angularkd.train(**RUN, out=str(tmp_path / "run"), tensorboard=True)
    events = reading.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/accuracy")] == [1, 2]
    last = events.Scalars("test, last epoch/accuracy")[-1].value
    assert last == pytest.approx(run.results["metrics"]["last epoch"]["accuracy"])
    assert {"training/loss", "run/lr", "training/ce"} <= set(events.Tags()["scalars"])


def test_any_logger_of_fabric_gets_them(digits_teacher, tmp_path) -> None:
    logger, files = Recorded(), CSVLogger(str(tmp_path / "csv"))
    options = {**DIGITS, "student": "cifar/resnet8", "epochs": 2, "loss": {"ce": 1, "kd": 1}}
    run = angularkd.distill(
        **options, teacher=str(digits_teacher), out=str(tmp_path / "run"), baseline=True, loggers=[logger, files]
    )
    assert [step for step, metrics in logger.rows if "training/loss" in metrics] == [
        1,
        2,
    ]  # of this run, not of the baseline
    assert {"training/kd", "training/train_accuracy", "validation/nll", "run/images_per_second"} <= set(
        logger.rows[0][1]
    )
    assert logger.options["student"] == "cifar/resnet8" and logger.status == "success"
    assert "tensorboard" not in (run.folder / "config.yaml").read_text() and not (run.folder / "tensorboard").exists()
    assert list((tmp_path / "csv").rglob("metrics.csv"))


def test_tensorboard_that_is_missing_is_said_before_anything_is_done(tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'angularkd\[tensorboard\]'"):
        angularkd.train(**RUN, out=str(tmp_path / "run"), tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_trains_nothing_leaves_no_log(tmp_path) -> None:
    with pytest.raises(InputError):
        angularkd.train(**{**RUN, "lr": 1e8}, out=str(tmp_path / "run"), tensorboard=True)
    assert not (tmp_path / "run/tensorboard").exists()
