"""The report command, and the report that a finished run leaves: one HTML file, its figures beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from angularkd.config import DistillConfig, EvaluateConfig, Recipe, ReportConfig
from angularkd.data import DataSet
from angularkd.errors import InputError
from angularkd.reports import (
    MOST_RUNS,
    Networks,
    Record,
    check_libraries,
    is_study,
    read_record,
    report_run,
    report_runs,
    report_study,
)
from angularkd.runs import Run, RunFolder
from angularkd.system.environment import versions
from angularkd.system.files import check_file_writable, check_writable
from angularkd.training import Data, Job, Reporter, Silent, build_evaluation, open_dataset
from angularkd.types import Batch

BATCH = 128
DATA_OPTIONS = ("image_size", "val_fraction", "split_seed", "on_bad_image", "loader", "workers")
TEACHER_OPTIONS = ("teacher_weights", "teacher_normalization", "teacher_classes", "teacher_input_size")
LONGEST_REASON = 300


def report(runs: str | Path | Sequence[str | Path], **options: Any) -> Path:
    """Make a report of a finished run, of several side by side, or of a study.

    Args:
        runs: the folder of a run or a study, or the folders of several runs.
        options: the other fields of `angularkd.config.ReportConfig`, which are the flags of `angularkd report`.

    Returns:
        The file of the report.

    Raises:
        InputError: for a folder that is none of a finished run or a study, and where a library is missing.
    """
    return run_report(ReportConfig.from_options(runs=runs, **options))


def run_report(config: ReportConfig, console: Console | None = None) -> Path:
    """Make the report that a checked configuration names, and say on the console where it is."""
    check_libraries()
    console = console or Console(quiet=True)
    folders = [Path(run) for run in config.runs]
    studies = [folder for folder in folders if is_study(folder)]
    if studies and len(folders) > 1:
        raise InputError(f"{studies[0]} is a study, and a report is of one study, or of runs: give it alone as `runs`")
    records = [read_record(folder) for folder in folders if folder not in studies]
    if len({record.path.resolve() for record in records}) < len(records):
        raise InputError("a run is given twice: give each once as `runs`")
    out = Path(config.out) if config.out is not None else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    figures = Path(config.figures) if config.figures is not None else out.with_name(f"{out.stem}_files")
    check_file_writable(out, "out")
    check_writable(figures, "figures")
    if studies:
        report_study(studies[0], out, figures, _version())
    elif len(records) > 1:
        report_runs(records, _students(records[:MOST_RUNS], config, console), out, figures, _version())
    else:
        networks, missing = _networks(records[0], config)
        report_run(records[0], networks, out, figures, _environment(records[0]), missing)
        if missing:
            console.print(f"note: {missing}", soft_wrap=True, highlight=False)
    console.print(f"report: {out}, its figures: {figures}", soft_wrap=True, highlight=False)
    return out


def reporting(config: Recipe, reporter: Reporter | None) -> Callable[[Job, Run], None] | None:
    """Return what makes the report of a run that has just ended, of its networks and images; None where none is asked for.

    Nothing that goes wrong with it is an error of the run: it is reported in a line, which says how to make the report again.
    """
    if not config.report:
        return None

    def finished(job: Job, run: Run) -> None:
        log = (reporter or Silent()).log
        if "last epoch" not in run.results["metrics"]:
            return
        folder = RunFolder(run.folder)
        try:
            check_libraries()
        except InputError as error:
            log(f"note: there is no report: {error}, then angularkd report {run.folder}")
            return
        try:
            record = read_record(run.folder)
            report_run(
                record, _of_job(job), folder.report, folder.report.with_name("report_files"), _environment(record)
            )
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
            log(
                f"note: the run is finished, and its report could not be made ({reason}): angularkd report {run.folder} makes it"
            )
            return
        log(f"report: {folder.report}")

    return finished


def _of_job(job: Job) -> Networks:
    """Return the networks of a run that has just ended, and its test images."""
    pairs = job.config.pairs if isinstance(job.config, DistillConfig) else None
    classes, images = job.data.dataset.classes, len(job.data.dataset.test)
    return Networks(job.fabric, job.result, job.teacher, classes, images, _reader(job.data), pairs)


def _networks(record: Record, config: ReportConfig) -> tuple[Networks | None, str]:
    """Open the networks of a run and its test images again; say what is missing of them, and why."""
    try:
        return _opened(record, config, record.distilled), ""
    except InputError as error:
        missing = str(error).rstrip(".")
    if record.distilled:
        try:
            return _opened(
                record, config, False
            ), f"the teacher cannot be opened ({missing}), so that the student is shown alone"
        except InputError as error:
            missing = str(error).rstrip(".")
    return None, f"the networks or images of the run cannot be opened ({missing})"


def _students(records: Sequence[Record], config: ReportConfig, console: Console) -> list[tuple[Networks | None, str]]:
    """Open the students of several runs and their test images again, each data set once; say what is missing of them, and why."""
    datasets: dict[str, DataSet] = {}
    found: list[tuple[Networks | None, str]] = []
    for record in records:
        try:
            found.append((_opened(record, config, False, datasets), ""))
        except InputError as error:
            missing = f"its network or images cannot be opened ({str(error).rstrip('.')})"
            console.print(f"note: {record.path}: {missing}", soft_wrap=True, highlight=False)
            found.append((None, missing))
    return found


def _opened(
    record: Record, config: ReportConfig, with_teacher: bool, datasets: dict[str, DataSet] | None = None
) -> Networks:
    """Open the networks of a run; of `datasets`, by their options, one that is there is taken, and one that is not is added."""
    folder, stored = RunFolder(record.path), record.config
    names = (*DATA_OPTIONS, *(TEACHER_OPTIONS if with_teacher else ()))
    options = {name: stored[name] for name in names if stored.get(name) is not None}
    if stored.get("precision") != "16-mixed":  # which a GPU alone has
        options |= {"precision": stored.get("precision", "auto")}
    if with_teacher:
        fitted = stored.get("teacher_train") is not None and folder.teacher.student.is_file()
        options |= {"teacher": str(folder.teacher.path)} if fitted else {"teacher": record.teacher}
    asked = EvaluateConfig.from_options(
        data=stored.get("data", ""),
        model=str(record.path),
        split="test",
        device=config.device,
        trust=config.trusted,
        batch_size=BATCH,
        **options,
    )
    about = str([asked.data, *(getattr(asked, name) for name in DATA_OPTIONS)])
    datasets = {} if datasets is None else datasets
    if about not in datasets:
        datasets[about] = open_dataset(asked)
    built = build_evaluation(asked, datasets[about])
    classes, images = built.data.dataset.classes, len(built.data.dataset.test)
    return Networks(built.fabric, built.model, built.teacher, classes, images, _reader(built.data), stored.get("pairs"))


def _reader(data: Data) -> Callable[[np.ndarray], Iterable[Batch]]:
    """Return a function from rows of the test split to its batches, for which no other image is decoded."""

    def batches(rows: np.ndarray) -> Iterable[Batch]:
        some = replace(data, dataset=replace(data.dataset, test=data.dataset.test.select(rows)))
        return some.batches("test", BATCH).epoch(0)

    return batches


def _environment(record: Record) -> dict[str, str]:
    """Return what a run was made with, as far as its results say it."""
    found = {**(record.results.get("versions") or {}), **(record.results.get("hardware") or {})}
    return {name: str(value) for name, value in found.items() if value is not None}


def _version() -> str:
    return versions().get("angularkd", "")
