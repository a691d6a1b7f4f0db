"""The sentence at the top of a report says what is known, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from angularkd.reports.outcome import interval, outcome_of
from angularkd.reports.record import Record


def record(teacher=None, baseline=None, teacher_parameters=None, distilled=True, **results) -> Record:
    metrics = {"last epoch": {"accuracy": 0.931}, "selected epoch": {"accuracy": 0.93}}
    metrics |= {"teacher": {"accuracy": teacher}} if teacher is not None else {}
    metrics |= {"from scratch": {"accuracy": baseline}} if baseline is not None else {}
    known = {"metrics": metrics, "images": 359, "parameters": 75_290, **results}
    known |= {"teacher_parameters": teacher_parameters} if teacher_parameters else {}
    config = {"student": "cifar/resnet8", "teacher": "t", "seed": 3} if distilled else {"model": "cifar/resnet8"}
    return Record(Path("runs/a"), config, {}, [], known)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "The student reaches 93.1 % on 359 test images."),
        ({"teacher": 0.978}, "The student reaches 93.1 % on 359 test images, 4.7 points below its teacher."),
        ({"teacher": 0.9}, "The student reaches 93.1 % on 359 test images, 3.1 points above its teacher."),
        ({"teacher": 0.9312}, "The student reaches 93.1 % on 359 test images, the same as its teacher."),
        (
            {"teacher": 0.978, "teacher_parameters": 691_674, "baseline": 0.91},
            "The student reaches 93.1 % on 359 test images, 4.7 points below its teacher, at 1/9 of its size; trained without the teacher "
            "it reaches 91.0 %.",
        ),
        ({"distilled": False}, "resnet8 reaches 93.1 % on 359 test images."),
    ],
)
def test_the_sentence_holds_what_is_known(options, sentence) -> None:
    assert outcome_of(record(**options)).sentence == sentence


def test_the_evidence_names_interval_seed_and_comparison() -> None:
    compared = {"difference": 0.021, "low": -0.004, "high": 0.046}
    text = outcome_of(record(baseline=0.91, comparison=compared)).evidence
    assert "seed 3" in text and "89.9 to" in text
    assert "+2.1 points" in text and "−0.4 to +4.6" in text


def test_the_interval_is_wilsons() -> None:
    n, share, z = 359, 334 / 359, 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    assert interval(share, n) == pytest.approx((centre - half, centre + half), abs=1e-6)
