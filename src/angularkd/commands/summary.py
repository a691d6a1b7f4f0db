"""The last lines of a run: what its student is worth, whether its teacher helped, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from angularkd.runs import RunFolder


def print_summary(folder: Path, results: dict[str, Any], console: Console) -> None:
    """Print what a person wants of a finished run: accuracy, size and speed beside the teacher's, and the next commands.

    Args:
        folder: of the run.
        results: what its results.json holds.
        console: where it is printed.
    """
    for line in summary_lines(folder, results):
        console.print(line, soft_wrap=True, highlight=False)


def summary_lines(folder: Path, results: dict[str, Any]) -> list[str]:
    """Return those lines."""
    run, metrics = shlex.quote(str(folder)), results["metrics"]
    distilled = "milliseconds" in results
    lines = []
    if "last epoch" in metrics:
        beside = [f"{name} {metrics[name]['accuracy']:.2%}" for name in ("teacher", "from scratch") if name in metrics]
        lines += [
            f"{'student' if distilled else 'model'}: {metrics['last epoch']['accuracy']:.2%} of {results['images']:,} test images right"
            + (f" ({', '.join(beside)})" if beside else "")
        ]
    if distilled:
        lines += [_size_and_speed(results)]
    if "comparison" in results:
        lines += _whether_it_helped(results["comparison"])
    elif distilled:
        again = (
            f"angularkd distill --config {shlex.quote(str(RunFolder(folder).config))} --out {run} --resume --baseline"
        )
        lines += [f"whether the teacher helped: {again}"]
    lines += [f"run folder: {folder}"]
    onwards = [f"angularkd predict {run} photo.jpg", f"angularkd export {run} --format onnx"]
    return [*lines, *(f"{head} {command}" for head, command in zip(("next:", "     "), onwards, strict=True))]


def _size_and_speed(results: dict[str, Any]) -> str:
    smaller = results["teacher_parameters"] / results["parameters"]
    times = results["milliseconds"]
    return (
        f"size and speed: {results['parameters']:,} parameters, {_times(smaller, 'fewer', 'more')} than the teacher; "
        f"{times['student']:.3g} ms an image here in batches, {_times(times['teacher'] / times['student'], 'faster', 'slower')} "
        "(one image alone takes longer: latency in the report)"
    )


def _times(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.1f} times {more}" if ratio >= 1 else f"{1 / ratio:.1f} times {less}"


def _whether_it_helped(found: dict[str, float]) -> list[str]:
    """Return sentences on the difference that the teacher made, which claims no more than the test images say."""
    if found["low"] > 0:
        verdict = "distillation helped"
    elif found["high"] < 0:
        verdict = "distillation did harm"
    else:
        verdict = "distillation made no difference that these images could show"
    points = [f"{100 * found[name]:+.2f}" for name in ("difference", "low", "high")]
    return [
        f"{verdict}: {points[0]} points of test accuracy over the student from scratch",
        f"(95 % interval {points[1]} to {points[2]}, on the same {found['images']:,} images, of one seed: angularkd study FILE says it "
        "over seeds)",
    ]
