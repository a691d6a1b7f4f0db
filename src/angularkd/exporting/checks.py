"""What a file is worth beside the student that it was made of: differences, accuracy, and time on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.system.timing import time_in_turn

Outputs = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch classes"]]
"""From images in 0..1 to logits or probabilities."""
TIE = 1e-4
"""Share of the largest output (or of 1) below which two outputs of an image are equal: rounding may turn them round."""
BATCHES = (1, 32)
"""Numbers of images whose time is taken."""
REPEATS, LONGEST_SECONDS, LEAST_REPEATS = 50, 3.0, 5
"""Of timing one number of images, for all that is timed together."""


@dataclass(frozen=True)
class Images:
    """Images to check a file with.

    Attributes:
        what: what they are, for the report.
        batches: makes an iterator over the images in 0..1 with their classes, None where these are not known.
    """

    what: str
    batches: Callable[[], Iterable[tuple[Tensor, Int[Tensor, " batch"] | None]]]


def compare(original: Outputs, others: Mapping[str, Outputs], images: Images) -> dict[str, dict[str, Any]]:
    """Run the original and others on the same images, in one pass.

    Returns:
        Of "original" and each other the number of images and, where classes are known, `accuracy`; of the others also the share of
        images with the original's first class, `equal_top1`, the largest absolute difference of an output, `max_difference`, and
        the largest output of the original, `largest_output`, that this is measured by.
    """
    outputs = {"original": original, **others}
    hits, same = dict.fromkeys(outputs, 0), dict.fromkeys(others, 0)
    difference, largest, count, labelled = dict.fromkeys(others, 0.0), 0.0, 0, True
    for batch, labels in images.batches():
        found = {name: run(batch) for name, run in outputs.items()}
        count += len(batch)
        largest = max(largest, found["original"].abs().max().item())
        for name in others:
            apart = (found[name] - found["original"]).abs().max().item()
            difference[name] = max(difference[name], apart) if apart == apart else float("inf")
            same[name] += int(_same_first(found["original"], found[name]).sum())
        for name in outputs:
            labelled = labels is not None
            hits[name] += int((found[name].argmax(dim=1) == labels).sum()) if labels is not None else 0
    results: dict[str, dict[str, Any]] = {name: {"images": count} for name in outputs}
    for name in outputs if labelled else ():
        results[name]["accuracy"] = hits[name] / count
    for name in others:
        results[name] |= {
            "equal_top1": same[name] / count,
            "max_difference": difference[name],
            "largest_output": largest,
        }
    return results


def _same_first(original: Tensor, other: Tensor) -> Tensor:
    """Return for each image whether both name the same class, or the original gives the other's class as much but for rounding."""
    gap = original.amax(dim=1) - original.gather(1, other.argmax(dim=1, keepdim=True)).squeeze(1)
    return gap <= TIE * original.abs().max().clamp(min=1)


def time_all(outputs: Mapping[str, Outputs], size: tuple[int, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Time several networks in turn, so that what else the machine does concerns all of them.

    Returns:
        Of each and of each number of images in BATCHES the median in milliseconds, and the spread: half of the distance between the
        quartiles.
    """
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in outputs}
    for batch in BATCHES:
        images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))
        calls = {name: partial(run, images) for name, run in outputs.items()}
        times = time_in_turn(calls, repeats=REPEATS, least_repeats=LEAST_REPEATS, longest_seconds=LONGEST_SECONDS)
        for name, row in times.items():
            found[name][str(batch)] = row
    return found


def shown_time(measured: Mapping[str, float]) -> str:
    """Return median and spread in milliseconds as text, with as many digits as mean something."""
    decimals = 3 if measured["median_ms"] < 1 else 2 if measured["median_ms"] < 10 else 1
    return f"{measured['median_ms']:.{decimals}f} ± {measured['spread_ms']:.{decimals}f}"
