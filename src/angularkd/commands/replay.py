"""The replay command: a step whose loss or gradient was not finite, run again and looked at part by part."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.config import ReplayConfig, with_flags
from angularkd.runs import RunFolder
from angularkd.training import Replay, replay

SHOWN_ROWS = 10
"""Rows of images that are named at most."""


def run_replay(config: ReplayConfig, console: Console) -> Replay:
    """Run the step again that a checked configuration names, and print what its parts hold, in the order in which one makes the next.

    Raises:
        InputError: when there is nothing to run again, or it cannot be.
    """
    found = replay(RunFolder(Path(config.run)), config.device, config.trusted)
    view = f"view {found.view}" if found.view is not None else "mixed"
    rows = [
        (
            finding.name,
            f"{finding.numbers:,}",
            f"{finding.largest:.4g}",
            f"{finding.nonfinite:,}" if finding.nonfinite else "",
        )
        for finding in found.diagnosis.findings
    ]
    title = f"Step {found.step}, in epoch {found.epoch}: {len(found.indices):,} images, {view}"
    print_table(
        console,
        ("part of the step", "numbers", "largest", "not finite"),
        rows,
        title=title,
        words=("part of the step",),
    )
    console.print(with_flags(f"first: {found.diagnosis.explanation}"), soft_wrap=True, highlight=False)
    if found.rows:
        more = f" and {len(found.rows) - SHOWN_ROWS} more" if len(found.rows) > SHOWN_ROWS else ""
        named = ", ".join(map(str, found.rows[:SHOWN_ROWS]))
        console.print(f"of the rows {named}{more} of the training images", soft_wrap=True, highlight=False)
    return found
