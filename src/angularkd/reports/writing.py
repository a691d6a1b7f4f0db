"""Reports as files: the page, and each of its figures as SVG and PNG beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from angularkd.errors import InputError
from angularkd.reports.comparison import comparison_page
from angularkd.reports.drawing import Drawn, Plot, draw
from angularkd.reports.observing import Networks
from angularkd.reports.page import Page, render
from angularkd.reports.record import Record
from angularkd.reports.single import run_page
from angularkd.reports.studied import study_page
from angularkd.studies import read_lines, summarise
from angularkd.system.extras import import_extra
from angularkd.system.files import write_text

LIBRARIES = ("jinja2", "matplotlib")
STUDY_FILES = ("results.jsonl", "study.yaml")


def check_libraries() -> None:
    """Raise InputError where a library is not installed that reports need."""
    for name in LIBRARIES:
        import_extra(name, "report", "a report")


def is_study(folder: Path) -> bool:
    """Return whether a folder is that of a study."""
    return all((folder / name).is_file() for name in STUDY_FILES)


def report_run(
    record: Record,
    networks: Networks | None,
    out: Path,
    figures: Path,
    environment: Mapping[str, str],
    missing: str = "",
) -> None:
    """Write the report of a run.

    Args:
        record: what it left.
        networks: its networks and test images; None where they cannot be opened.
        out: the file of the page.
        figures: the folder of the figures.
        environment: what it ran on and with, by name.
        missing: what of the networks is missing, and why.
    """
    text = (record.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    _write(out, figures, lambda drawn: run_page(record, networks, drawn, text, environment, missing))


def report_runs(
    records: Sequence[Record], opened: Sequence[tuple[Networks | None, str]], out: Path, figures: Path, version: str
) -> None:
    """Write the report of several runs side by side.

    Args:
        records: what they left.
        opened: of the first of them the networks and test images, or None, and what of these is missing, and why.
        out: the file of the page.
        figures: the folder of the figures.
        version: of this program.
    """
    _write(out, figures, lambda drawn: comparison_page(records, opened, drawn, version))


def report_study(folder: Path, out: Path, figures: Path, version: str) -> None:
    """Write the report of a study.

    Raises:
        InputError: where its results cannot be read.
    """
    lines = read_lines(folder / STUDY_FILES[0])
    if not lines:
        raise InputError(f"the study in {folder} has no results yet: run it first")
    text = (folder / STUDY_FILES[1]).read_text(encoding="utf-8", errors="replace")
    name = folder.absolute().name
    _write(out, figures, lambda drawn: study_page(name, lines, summarise(lines), drawn, text, version))


def _write(out: Path, figures: Path, page: Callable[[Callable[[Sequence[Plot]], list[Drawn]]], Page]) -> None:
    write_text(out, render(page(lambda plots: [draw(plot, figures) for plot in plots])))
