"""Files are there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from angularkd.system.files import write_atomically, write_json, write_json_lines, write_text


def test_a_file_is_replaced_and_never_written_into(tmp_path) -> None:
    file, held = tmp_path / "a.txt", tmp_path / "held.txt"
    write_text(file, "old")
    os.link(file, held)  # what somebody sees who opened the file before
    write_text(file, "new and longer")
    assert (file.read_text(), held.read_text()) == ("new and longer", "old")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.txt", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "b.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_folders_are_made_and_permissions_are_those_of_any_new_file(tmp_path) -> None:
    write_json(tmp_path / "x/y/a.json", {"a": [1, None]})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "x/y/a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert json.loads((tmp_path / "x/y/a.json").read_text()) == {"a": [1, None]}


def test_json_lines_are_a_value_a_line(tmp_path) -> None:
    write_json_lines(tmp_path / "a.jsonl", [{"a": 1}, {"b": "ü\n"}])
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"a": 1}, {"b": "ü\n"}]
