"""What the networks of several runs do, side by side: their calibration, and a wall of the same images with each one's attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from angularkd.reports.calibration import FITTED, MEANING, student_reliability
from angularkd.reports.drawing import SERIES
from angularkd.reports.names import short
from angularkd.reports.observing import Networks, Observed, image_count, observe
from angularkd.reports.page import Section
from angularkd.reports.record import Record
from angularkd.reports.single import MARGIN, Draw
from angularkd.reports.wall import build_shared_wall

MOST_RUNS = 8
"""Whose networks are run, the first that are given: a page has room for so many maps of an image."""
LONGEST_ROLE = 22
Opened = Mapping[str, tuple[Networks | None, str]]
"""The networks of runs by their labels, or None, and what of them is missing, and why."""


def sections_of_networks(runs: Mapping[str, Record], opened: Opened, draw: Draw, *, same_images: bool) -> list[Section]:
    """Return the sections that the networks of several runs have to be run for.

    Args:
        runs: by their labels.
        opened: their networks, of some or all of the runs.
        draw: turns plots into figures.
        same_images: whether all runs have the same test images.
    """
    networks = {label: found for label, (found, _) in opened.items() if found is not None}
    notes = [
        f"{label}: {missing}, so that its network is not shown." for label, (_, missing) in opened.items() if missing
    ]
    if len(runs) > len(opened):
        notes.append(f"Networks of the first {len(opened)} runs are shown; name the others first to see theirs.")
    most = min((image_count(found) for found in networks.values()), default=0)
    observed = {label: observe(found, most) for label, found in networks.items()}
    temperatures = {label: runs[label].results.get("temperature", {}).get("last epoch") for label in observed}
    plots = [
        student_reliability(
            found,
            temperatures[label],
            f"reliability_{number}",
            f"Calibration: {short(label, 40)}",
            f"Of {found.which}.",
            SERIES[list(runs).index(label) % len(SERIES)],
        )
        for number, (label, found) in enumerate(observed.items(), start=1)
        if found.student.logits is not None
    ]
    return [
        _attention(networks, observed, same_images=same_images),
        Section("calibration", "Calibration", MEANING + (FITTED if any(temperatures.values()) else ""), draw(plots)),
        Section("missing", "What is missing", notes=notes),
    ]


def _attention(networks: Mapping[str, Networks], observed: Mapping[str, Observed], *, same_images: bool) -> Section:
    """Return the wall; nothing for fewer than two networks, and where they are of different images or classes."""
    title = "What the networks attend to"
    labels = [label for label, each in observed.items() if each.student.logits is not None]
    classifying = {role: observed[label] for role, label in zip(_roles(labels), labels, strict=True)}
    if len(classifying) < 2 or not same_images or not _one_split(list(classifying.values())):
        return Section("attention", title)
    first = next(label for label, each in observed.items() if each.student.logits is not None)
    wall = build_shared_wall(networks[first], classifying)
    if wall is None:
        return Section("attention", title)
    text = (
        f"Of {observed[first].which}, all say the same of {wall.agreeing:,} and differ on {wall.disagreeing:,}. Below are some of each, "
        "evenly spread over the test images, those that differ first. The slider moves AMD's margin m: the positive and the angular maps "
        "are computed anew in this page. On one scale, colours of an image compare all its networks and all margins."
    )
    return Section("attention", title, text, wall=wall, margin=MARGIN)


def _roles(labels: list[str]) -> list[str]:
    """Return short names of networks, numbered where they would be alike."""
    names = [short(label, LONGEST_ROLE) for label in labels]
    return names if len(set(names)) == len(names) else [f"{i}: {name}" for i, name in enumerate(names, start=1)]


def _one_split(observed: list[Observed]) -> bool:
    """Return whether all are of the same classes and of images with the same labels."""
    first, *others = observed
    return all(each.classes == first.classes and np.array_equal(each.labels, first.labels) for each in others)
