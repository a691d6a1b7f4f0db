"""The tables in docs/results.md that commands make from committed lines of results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_of_objectives_is_what_its_command_prints() -> None:
    command = [sys.executable, "benchmarks/defaults.py", "--results", "docs/results/defaults.jsonl", "--markdown"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs/results.md").read_text()
    assert page.count("<!-- defaults -->") == 1
    table = page.split("<!-- defaults -->\n")[1].split("<!-- /defaults -->")[0]
    assert table == printed and printed.count("\n") > 5
