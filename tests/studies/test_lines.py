"""results.jsonl: whole lines whatever happens, merged without contradictions."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from angularkd.errors import InputError
from angularkd.studies.lines import append_line, read_lines


def line(cell: str, status: str = "finished", accuracy: float = 0.9, **more: object) -> dict:
    place = {"kind": "result", "pair": "a -> b", "objective": "AMD", "vary": {}, "settings": {}, "seed": 0}
    metrics = {"metrics": {"last epoch": {"accuracy": accuracy}}} if status == "finished" else {}
    return {
        "cell": cell,
        "status": status,
        **place,
        "results": metrics,
        "configuration": {"lr": 0.1},
        "validation": {},
        **more,
    }


def test_lines_are_added_whole_by_several_at_once(tmp_path) -> None:
    file = tmp_path / "study" / "results.jsonl"
    rows = [line(f"{number:03}", seed=number, filler="x" * 5000) for number in range(24)]
    threads = [
        threading.Thread(target=lambda part=part: [append_line(file, row) for row in rows[part::4]])
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_lines(file), key=lambda row: row["cell"]) == rows
    assert [path.name for path in file.parent.iterdir()] == ["results.jsonl"]


def test_half_a_line_of_a_killed_writer_is_passed_over_and_written_over(tmp_path) -> None:
    file = tmp_path / "results.jsonl"
    append_line(file, line("a"))
    with file.open("a") as half:
        half.write('{"cell": "b", "kind"')
    assert [row["cell"] for row in read_lines(file)] == ["a"]
    append_line(file, line("c", seed=1))
    assert [row["cell"] for row in read_lines(file)] == ["a", "c"]
    assert all(json.loads(row) for row in file.read_text().splitlines())


def written(folder: Path, name: str, *rows: dict) -> Path:
    file = folder / name
    for row in rows:
        append_line(file, row)
    return file


def test_a_cell_that_failed_and_was_finished_later_is_finished(tmp_path) -> None:
    file = written(
        tmp_path,
        "r",
        line("a", "failed"),
        line("a"),
        line("b", "failed", seed=1),
        line("b", "failed", seed=1, error="again"),
    )
    found = read_lines(file)
    assert [(row["cell"], row["status"]) for row in found] == [("a", "finished"), ("b", "failed")]
    assert found[1]["error"] == "again"
    other = written(tmp_path, "s", line("a", "failed"))
    assert next(row["status"] for row in read_lines(file, other)) == "finished", "whichever file comes first"
    changed = written(tmp_path, "t", line("old", "failed", objective="AMD"), line("new"))
    assert [row["cell"] for row in read_lines(changed)] == ["new"], (
        "a failed run whose options were mended is none any more"
    )


def test_files_are_merged_and_what_is_twice_counts_once(tmp_path) -> None:
    first = written(tmp_path, "r", line("a"), line("b", seed=1))
    second = written(tmp_path, "s", line("b", seed=1), line("c", seed=2))
    assert [row["cell"] for row in read_lines(first, second)] == ["a", "b", "c"]


def test_contradictions_are_refused_in_a_line(tmp_path) -> None:
    first, second = written(tmp_path, "r", line("a")), written(tmp_path, "s", line("a", accuracy=0.8))
    with pytest.raises(InputError, match=r"s: the cell a \(a -> b, AMD, seed 0\) has other results") as error:
        read_lines(first, second)
    assert "\n" not in str(error.value)
    third = written(tmp_path, "t", line("z", configuration={"lr": 0.2}))
    with pytest.raises(InputError, match="run in two ways, which differ in lr"):
        read_lines(first, third)


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", '{"cell": 1}\n', "\xff\n", "[" * 100_000 + "\n"])
def test_what_is_no_file_of_results_is_refused(tmp_path, text) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="result"):
        read_lines(file)
    with pytest.raises(InputError, match="there is no file of results"):
        read_lines(tmp_path / "missing")
