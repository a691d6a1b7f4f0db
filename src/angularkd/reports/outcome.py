"""The outcome of a run in a sentence that a person can repeat, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from angularkd.reports.names import count, last_part, percent, points
from angularkd.reports.record import Record


@dataclass(frozen=True)
class Figure:
    """A number at the top of the page.

    Attributes:
        value: as it is shown.
        label: what it is.
        about: in a few words, what it rests on or is to be compared with.
    """

    value: str
    label: str
    about: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        sentence: to repeat.
        evidence: what it rests on, and what it does not say.
        figures: the numbers beside it.
    """

    sentence: str
    evidence: str
    figures: list[Figure]


def outcome_of(record: Record) -> Outcome:
    """Return the outcome of a run. Every part of it is a number of the run's results."""
    accuracy, images = record.metrics["accuracy"], record.results["images"]
    who = "The student" if record.distilled else last_part(record.student)
    parts = [f"{who} reaches {percent(accuracy)} on {images:,} test images"]
    teacher, size = record.teacher_metrics.get("accuracy"), _size(record)
    if teacher is not None:
        parts[0] += f", {_beside(accuracy, teacher)} its teacher"
    if size:
        parts[0] += f", {size}"
    baseline = record.baseline_metrics.get("accuracy")
    if baseline is not None:
        parts.append(f"trained without the teacher it reaches {percent(baseline)}")
    return Outcome("; ".join(parts) + ".", _evidence(record), _figures(record))


def interval(share: float, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of so many images."""
    from scipy.stats import binomtest

    found = binomtest(round(share * images), images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def interval_text(share: float, images: int) -> str:
    """Return the interval as 90.0 to 95.2 %."""
    low, high = interval(share, images)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _beside(accuracy: float, other: float) -> str:
    """Return how an accuracy stands to another, as both are shown."""
    difference = round(100 * accuracy, 1) - round(100 * other, 1)
    if round(difference, 1) == 0:
        return "the same as"
    return f"{abs(difference):.1f} points {'above' if difference > 0 else 'below'}"


def _size(record: Record) -> str:
    teacher, student = record.teacher_parameters, record.results.get("parameters")
    if not teacher or not student:
        return ""
    ratio = teacher / student
    if ratio >= 1.5:
        return f"at 1/{ratio:.0f} of its size"
    return "at nearly its size" if ratio >= 1 else f"at {1 / ratio:.1f} times its size"


def _evidence(record: Record) -> str:
    images = record.results["images"]
    accuracy = record.metrics["accuracy"]
    text = (
        f"By the weights after the last epoch, which were chosen without the test images. 95 % interval for {images:,} images: "
        f"{interval_text(accuracy, images)}. One run, seed {record.config.get('seed', 0)}: another seed gives another number, and a "
        "study says by how much."
    )
    comparison = record.results.get("comparison")
    if isinstance(comparison, Mapping) and "difference" in comparison:
        text += (
            f" Beside training without the teacher: {points(comparison['difference'])} points on the same images "
            f"(95 % interval {points(comparison['low'])} to {points(comparison['high'])})."
        )
    return text


def _figures(record: Record) -> list[Figure]:
    metrics, images = record.metrics, record.results["images"]
    found = [
        Figure(
            percent(metrics["accuracy"]),
            "student" if record.distilled else "accuracy",
            interval_text(metrics["accuracy"], images),
        )
    ]
    if "accuracy" in record.teacher_metrics:
        teacher = record.teacher_metrics["accuracy"]
        found.append(Figure(percent(teacher), "teacher", interval_text(teacher, images)))
    if "accuracy" in record.baseline_metrics:
        baseline = record.baseline_metrics["accuracy"]
        found.append(Figure(percent(baseline), "without the teacher", interval_text(baseline, images)))
    if "agreement" in metrics:
        found.append(Figure(percent(metrics["agreement"]), "agreement", "student and teacher say the same"))
    if record.results.get("parameters"):
        teacher_parameters = record.teacher_parameters
        about = f"teacher: {count(teacher_parameters)}" if teacher_parameters else ""
        found.append(Figure(count(record.results["parameters"]), "parameters", about))
    if "ece" in metrics:
        scaled = metrics.get("ece_calibrated")
        about = (
            f"{percent(scaled)} with its temperature"
            if scaled is not None
            else "0 where probabilities mean what they say"
        )
        found.append(Figure(percent(metrics["ece"]), "calibration error", about))
    return found
