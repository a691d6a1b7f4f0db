"""What is seen of a run: the live bar in a terminal, the line an epoch, the time left."""

from __future__ import annotations

from io import StringIO

import pytest
import torch
from rich.console import Console

from angularkd.training.meter import TrainingMeter
from angularkd.training.progress import Progressor, duration
from angularkd.types import Distilled

ROW = {
    "epoch": 1,
    "step": 4,
    "lr": 0.05,
    "loss": 2.5,
    "ce": 0.5,
    "amd": 2.0,
    "train_accuracy": 0.25,
    "images_per_second": 1234.5,
    "val_accuracy": 0.375,
    "val_nll": 1.0,
}


def meter() -> TrainingMeter:
    found = TrainingMeter()
    terms = {"ce": torch.tensor(0.5), "amd": torch.tensor(2.0)}
    found.update(Distilled(torch.tensor(2.5), terms, torch.eye(4)), torch.arange(4))
    return found


def shown(terminal: bool) -> str:
    file = StringIO()
    console = Console(file=file, force_terminal=terminal, width=160)
    with Progressor(console, epochs=3, steps_an_epoch=2) as progressor:
        progressor.step(0, 1, meter())
        progressor.epoch(ROW)
    return file.getvalue()


def test_a_terminal_shows_speed_terms_and_time_left() -> None:
    text = shown(terminal=True)
    for part in ("epoch 1/3", "images/s", "ce 0.500", "amd 2.000", "loss 2.500", "accuracy 100.0%", "left"):
        assert part in text


def test_elsewhere_there_is_a_plain_line_an_epoch() -> None:
    text = shown(terminal=False)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert text.startswith(
        "epoch 1/3  loss 2.5000  ce 0.5000  amd 2.0000  train 25.00%  val 37.50%  lr 0.05  1,234 images/s"
    )
    assert text.rstrip().endswith("left")


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3720, "1 h 02 min")]
)
def test_durations_are_readable(seconds, text) -> None:
    assert duration(seconds) == text
