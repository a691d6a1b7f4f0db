"""What the console shows of a run: the live bar in a terminal, the line an epoch, the time left, flags in messages."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from angularkd.commands.progress import ConsoleReporter
from angularkd.training import TrainingMeter, duration
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


def printed(terminal: bool, width: int = 160) -> str:
    file = StringIO()
    reporter = ConsoleReporter(Console(file=file, force_terminal=terminal, width=width))
    reporter.begin(epochs=3, steps_an_epoch=2, first_epoch=0)
    try:
        reporter.step(0, 1, meter())
        reporter.epoch(ROW)
    finally:
        reporter.end()
    return file.getvalue()


def test_a_terminal_shows_speed_terms_and_time_left() -> None:
    text = printed(terminal=True)
    for part in ("epoch 1/3", "images/s", "ce 0.500", "amd 2.000", "loss 2.500", "accuracy 100.0%", "left"):
        assert part in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_of_a_narrow_terminal_cuts_nothing(width) -> None:
    text = printed(terminal=True, width=width)
    assert "…" not in text and "epoch 1/3" in text and ("accuracy 100.0%" in text or width < 80)


def test_elsewhere_there_is_a_plain_line_an_epoch() -> None:
    text = printed(terminal=False)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert text.startswith(
        "epoch 1/3  loss 2.5000  ce 0.5000  amd 2.0000  train 25.00%  val 37.50%  lr 0.05  1,234 images/s"
    )
    assert text.rstrip().endswith("left")


def test_messages_name_flags_and_results_their_folder() -> None:
    file = StringIO()
    reporter = ConsoleReporter(Console(file=file, width=160))
    reporter.log("note: images are decoded, as `loader=workers` asks")
    results = {"metrics": {"last epoch": {"accuracy": 0.5}}, "images": 7, "parameters": 3}
    reporter.results(Path("runs/a"), "digits", results)
    lines = file.getvalue().splitlines()
    assert lines[0] == "note: images are decoded, as --loader workers asks"
    words = " ".join(file.getvalue().split())
    assert "test split of digits, 7 images" in words and "│ accuracy │ 50.00% │" in words
    assert "run folder: runs/a" in lines


def test_ending_before_the_beginning_does_nothing() -> None:
    file = StringIO()
    ConsoleReporter(Console(file=file)).end()
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3720, "1 h 02 min")]
)
def test_durations_are_readable(seconds, text) -> None:
    assert duration(seconds) == text
