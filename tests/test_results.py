"""The tables in docs/results.md that commands make from committed lines of results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from angularkd.cli import main

ROOT = Path(__file__).parents[1]


def test_the_table_of_the_study_of_digits_is_what_its_command_writes(tmp_path) -> None:
    main(["study", "--table", str(ROOT / "docs/results/study-digits.jsonl"), "--markdown", str(tmp_path / "table.md")])
    page = (ROOT / "docs/results.md").read_text()
    assert page.count("<!-- study-digits -->") == 1
    table = page.split("<!-- study-digits -->\n")[1].split("<!-- /study-digits -->")[0]
    assert table == (tmp_path / "table.md").read_text() and table.count("\n") > 9


def test_the_table_of_objectives_is_what_its_command_prints() -> None:
    command = [sys.executable, "benchmarks/defaults.py", "--results", "docs/results/defaults.jsonl", "--markdown"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs/results.md").read_text()
    assert page.count("<!-- defaults -->") == 1
    table = page.split("<!-- defaults -->\n")[1].split("<!-- /defaults -->")[0]
    assert table == printed and printed.count("\n") > 5
