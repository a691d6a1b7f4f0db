"""results.jsonl: a line for each cell of a study, added as it is done; files of several machines are merged when they are read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from angularkd.errors import InputError
from angularkd.system.locks import Lock

Line = dict[str, Any]
NEEDED = ("cell", "kind", "status", "pair", "objective", "vary", "settings", "seed")
WAIT_SECONDS = 0.05


def append_line(file: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a file, whole, under a lock, and flush it to disk. What a killed writer has left of a line is cut off first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(file.with_name(f".{file.name}.lock"))
    while not lock.acquire():
        time.sleep(WAIT_SECONDS)
    try:
        with file.open("ab+") as written:
            written.truncate(_whole_bytes(file))
            written.seek(0, os.SEEK_END)
            written.write((json.dumps(line) + "\n").encode())
            written.flush()
            os.fsync(written.fileno())
    finally:
        lock.release()


def read_lines(*files: Path) -> list[Line]:
    """Return the lines of files, one a cell: where it has several, the finished one, else the last.

    Args:
        files: results.jsonl of one study or of parts of it; a last line that its writer has not ended is passed over.

    Raises:
        InputError: for a file that holds no results, and where two finished lines of a cell, or two cells of one place in the table,
            contradict each other.
    """
    found: dict[str, Line] = {}
    for file in files:
        for line in _lines_of(file):
            known = found.get(line["cell"])
            if known is not None and known["status"] == "finished":
                if line["status"] == "finished" and _figures(line) != _figures(known):
                    raise InputError(
                        f"{file}: the cell {line['cell']} ({_named(line)}) has other results than in the lines before: leave one of the "
                        "two out"
                    )
                continue
            found[line["cell"]] = line
    lines = list(found.values())
    check_places(lines)
    finished = {place_of(line) for line in lines if line["status"] == "finished"}
    return [line for line in lines if line["status"] == "finished" or place_of(line) not in finished]


def check_places(lines: Sequence[Mapping[str, Any]]) -> None:
    """Check that no two finished lines are of one place in the table: equal in all but their configuration.

    Raises:
        InputError: naming the options in which they differ.
    """
    places: dict[str, Mapping[str, Any]] = {}
    for line in (line for line in lines if line["status"] == "finished"):
        other = places.setdefault(place_of(line), line)
        if other["cell"] != line["cell"]:
            raise InputError(
                f"{_named(line)} was run in two ways, which differ in {differing(other, line)}: results of one configuration make a "
                "table"
            )


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Say in which options of their configurations two lines differ."""
    one, two = first.get("configuration") or {}, second.get("configuration") or {}
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return ", ".join(names) or "their teacher, the contents of a file, or the number of threads"


def _lines_of(file: Path) -> list[Line]:
    try:
        text = file.read_bytes()[: _whole_bytes(file)].decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise InputError(f"there is no file of results {file} to read ({reason})") from None
    lines = []
    for number, row in enumerate(text.splitlines(), start=1):
        try:
            line = json.loads(row)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not all(name in line for name in NEEDED):
            raise InputError(f"{file}, line {number}, is no result of a study: give the results.jsonl of one")
        lines.append(line)
    return lines


def _whole_bytes(file: Path) -> int:
    """Return the length of a file up to the end of its last whole line."""
    if not file.exists():
        return 0
    return file.read_bytes().rfind(b"\n") + 1


def place_of(line: Mapping[str, Any]) -> str:
    """Return what two lines have in common that are of one place in the table, whatever their configurations."""
    return json.dumps([line[name] for name in NEEDED if name not in ("cell", "status")], sort_keys=True)


def _figures(line: Mapping[str, Any]) -> Any:
    results = line.get("results") or {}
    return results.get("metrics"), line.get("validation")


def _named(line: Mapping[str, Any]) -> str:
    return f"{line['pair']}, {line['objective']}, seed {line['seed']}"
