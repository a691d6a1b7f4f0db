"""The last lines of a run: what the student is worth beside others, and commands that can be copied."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from angularkd import cli
from angularkd.commands.summary import summary_lines
from angularkd.config import DistillConfig, ExportConfig, PredictConfig

TRAINED = {"metrics": {"last epoch": {"accuracy": 0.9}}, "images": 1000, "parameters": 10}
DISTILLED = {
    "metrics": {"last epoch": {"accuracy": 0.9}, "teacher": {"accuracy": 0.95}},
    "images": 1000,
    "parameters": 1000,
    "teacher_parameters": 9200,
    "milliseconds": {"student": 0.5, "teacher": 1.25},
}


def with_baseline(low: float, high: float) -> dict:
    found = {"difference": (low + high) / 2, "low": low, "high": high, "images": 1000}
    metrics = {**DISTILLED["metrics"], "from scratch": {"accuracy": 0.85}}
    return {**DISTILLED, "metrics": metrics, "comparison": found}


def test_a_student_stands_beside_its_teacher() -> None:
    lines = summary_lines(Path("runs/a b"), DISTILLED)
    assert lines[0] == "student: 90.00% of 1,000 test images right (teacher 95.00%)"
    assert (
        "1,000 parameters, 9.2 times fewer than the teacher; 0.5 ms an image here in batches, 2.5 times faster (one image alone"
        in lines[1]
    )
    assert "run folder: runs/a b" in lines


def test_the_next_commands_can_be_copied(tmp_path) -> None:
    lines = summary_lines(tmp_path / "a b", DISTILLED)
    commands = [shlex.split(line[line.index("angularkd ") :])[1:] for line in lines if "angularkd " in line]
    assert [command[0] for command in commands] == ["distill", "predict", "export"]
    (tmp_path / "a b").mkdir()
    options = DistillConfig.from_options(data="digits", teacher="a", student="b").dump()
    (tmp_path / "a b" / "config.yaml").write_text(options)
    kinds = {"distill": DistillConfig, "predict": PredictConfig, "export": ExportConfig}
    for command, *arguments in commands:
        config = cli.parse(kinds[command], command, arguments)
        assert str(tmp_path / "a b") in (getattr(config, "run", None), getattr(config, "out", None))
    again = cli.parse(DistillConfig, "distill", commands[0][1:])
    assert again.baseline and again.resume


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.03, "distillation helped: +2.00 points"),
        (-0.03, -0.01, "distillation did harm: -2.00 points"),
        (-0.01, 0.03, "distillation made no difference that these images could show: +1.00 points"),
    ],
)
def test_a_baseline_gets_a_verdict_that_says_how_sure_it_is(low, high, verdict) -> None:
    text = "\n".join(summary_lines(Path("a"), with_baseline(low, high)))
    assert verdict in text and f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}" in text
    assert "of one seed: angularkd study FILE" in text and "(teacher 95.00%, from scratch 85.00%)" in text
    assert "--baseline" not in text


def test_a_model_that_was_trained_alone_is_called_that() -> None:
    lines = summary_lines(Path("a"), TRAINED)
    assert lines[0] == "model: 90.00% of 1,000 test images right" and not any("teacher" in line for line in lines)
    assert summary_lines(Path("a"), {**TRAINED, "metrics": {}})[0] == "run folder: a"
