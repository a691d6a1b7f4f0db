"""The study command: what is printed while a study goes, its table, and the files that it is written to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from angularkd.commands.layout import print_table
from angularkd.config import Protocol, StudyConfig
from angularkd.errors import InputError
from angularkd.studies import (
    CAPTION,
    FORMS,
    RESULTS,
    Study,
    StudyReporter,
    cells,
    notes,
    once,
    parts,
    run_study,
    study_of,
)
from angularkd.system.files import check_file_writable, write_text
from angularkd.system.stopping import Stop
from angularkd.training import duration

NAME = "study"
"""Of a study that comes from no file and names none."""


def study(file: str | Path | Mapping[str, Any] | None = None, **options: Any) -> Study:
    """Compare objectives: pairs of teacher and student x objectives x seeds, to one table. What is done already is not done again.

    Args:
        file: the study's YAML file, or what it would hold, as a mapping.
        options: the other fields of `angularkd.config.StudyConfig`, which are the flags of `angularkd study`.

    Returns:
        The study: its `cells`, their `rows` with intervals, its `table()`.

    Raises:
        InputError: when something that was given cannot be used. A run that fails is no error: it is in `failed`, and the next call tries
            it again.
    """
    if isinstance(file, Mapping):
        return _study(StudyConfig.from_options(**options), None, file)
    return _study(StudyConfig.from_options(file=file, **options), None)


def show_study(config: StudyConfig, console: Console, stop: Stop | None = None) -> Study:
    """Run a study, or read results, and print the table."""
    found = _study(config, ConsoleStudy(console), stop=stop)
    print_study(found, console)
    return found


def print_study(study: Study, console: Console) -> None:
    """Print the table of a study in parts that a terminal has room for, what is to be known beside it, what has failed and what is left."""
    rows = study.rows
    for title, names in parts(rows).items():
        shown = rows if title == RESULTS else [row for row in rows if title in row.differences]
        headings = [name.removesuffix(f" ({title})") for name in names]
        print_table(console, headings, [cells(row, names) for row in shown], words=("pair", "objective"))
    console.print(CAPTION, highlight=False)
    for note in notes(rows):
        console.print(f"note: {note}", highlight=False)
    for line in study.failed:
        console.print(f"failed: {_named(line)}: {line['error']}", highlight=False, soft_wrap=True)
    if study.left:
        console.print(f"{study.left} cells are left: the same command goes on with them", highlight=False)
    if study.folder is not None:
        console.print(f"results: {study.folder / 'results.jsonl'}", highlight=False, soft_wrap=True)


class ConsoleStudy:
    """A reporter that prints: a bar over all cells in a terminal, and a line a cell.

    Args:
        console: where it is printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._noted: set[tuple[str, str]] = set()
        self._bar = Progress(
            TextColumn("cells"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def begin(self, done: int, total: int) -> None:
        """Print how many cells are done already, and start the bar."""
        self.console.print(f"{total} cells, {done} of them done already", highlight=False)
        self._task = self._bar.add_task("cells", total=total, completed=done, left="")
        self._bar.start()

    def cell(self, line: dict[str, Any], done: int, total: int, seconds_left: float) -> None:
        """Print what came of a cell, with what its plan notes that was not said of its pair yet, and advance the bar."""
        self._bar.update(self._task, completed=done, total=total, left=f"{duration(seconds_left)} left")
        what = "failed" if line["status"] == "failed" else _figures(line)
        self.console.print(
            f"{done}/{total}  {_named(line)}  {what}  {duration(seconds_left)} left", highlight=False, soft_wrap=True
        )
        for note, text in once(line.get("notes") or ()).items():
            if (line["pair"], note) not in self._noted:
                self.console.print(
                    f"note: {line['pair']} ({line['objective']}): {text}", highlight=False, soft_wrap=True
                )
            self._noted.add((line["pair"], note))

    def end(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def _study(
    config: StudyConfig,
    reporter: StudyReporter | None,
    protocol: Mapping[str, Any] | None = None,
    stop: Stop | None = None,
) -> Study:
    files = {form: Path(name) for form in FORMS if (name := getattr(config, form)) is not None}
    for form, path in files.items():
        check_file_writable(path, form)
    if config.table:
        if config.file is not None or protocol is not None:
            raise InputError(
                "`table` makes a table of results that are there: leave out the study, or leave out `table`"
            )
        found = study_of([Path(name) for name in config.table])
    else:
        found = _run(config, reporter, protocol, stop)
    for form, path in files.items():
        write_text(path, found.table(form))
    return found


def _run(
    config: StudyConfig, reporter: StudyReporter | None, given: Mapping[str, Any] | None, stop: Stop | None
) -> Study:
    """Run a study that a file or a mapping describes."""
    if given is None and config.file is None:
        raise InputError("name the study, a YAML file, or files of results with `table`")
    where = "the study" if given is not None else str(config.file)
    options = dict(given) if given is not None else read_options(str(config.file))
    if config.seeds is not None:
        options["seeds"] = config.seeds
    protocol = Protocol.read(options, where)
    if given is None:
        _check_code(protocol, config)
    name = protocol.name or (NAME if given is not None else Path(str(config.file)).stem)
    return run_study(config, protocol, name, reporter, stop)


def read_options(file: str) -> dict[str, Any]:
    """Return what a study's file holds. Raise InputError for a file that cannot be read, and for keys that no study has."""
    try:
        return Protocol.load(file)
    except InputError as error:
        raise InputError(str(error).replace("`", "'")) from None  # a file's names, no flags


def _check_code(protocol: Protocol, config: StudyConfig) -> None:
    """Raise InputError for a network whose code the file would have run: FILE.py:CALLABLE that `trust` does not name."""
    trusted = {Path(name).resolve() for name in config.trust}
    for pair in protocol.all_pairs.values():
        teacher = pair.teacher if isinstance(pair.teacher, str) else str(pair.teacher["model"])
        for spec in (teacher, pair.student):
            code = Path(spec.rpartition(":")[0])
            if ".py:" in spec and code.resolve() not in trusted:
                raise InputError(
                    f"{config.file} names {spec}, and to open it would run the code in {code.resolve()}: read that file, then allow it "
                    f"with `trust={code}`"
                )


def _named(line: Mapping[str, Any]) -> str:
    settings = {**line["vary"], **line["settings"]}
    chosen = f" ({', '.join(f'{name}={value}' for name, value in settings.items())})" if settings else ""
    trial = "trial of " if line["kind"] == "selection" else ""
    return f"{line['pair']}  {trial}{line['objective']}{chosen}  seed {line['seed']}"


def _figures(line: Mapping[str, Any]) -> str:
    """Return a cell's accuracy: on the test images, of a trial on the validation images."""
    metrics = line["results"].get("metrics") or {}
    if metrics:
        return f"test accuracy {metrics['last epoch']['accuracy']:.2%}"
    accuracy = line["validation"].get("accuracy")
    return f"validation accuracy {accuracy:.2%}" if accuracy is not None else "done"
