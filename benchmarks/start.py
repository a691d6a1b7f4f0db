"""Seconds from the start of the process to the first optimiser step of a command, uncompiled.

    python benchmarks/start.py [--repeats 7] [--json-file FILE] -- train DATA --model cifar/wrn_16_1 --augment flip
    python benchmarks/start.py -- distill DATA --teacher cifar/resnet20 --teacher-weights FILE --student cifar/wrn_16_1

Each repeat is a new process, ended at its first step; its run goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import environment, report, write

STOP_AT_FIRST_STEP = """
import os, sys, time
from torch.optim import SGD, AdamW
def stop(*_, **__):
    print("first step at", time.time(), flush=True)
    os._exit(0)
SGD.step = AdamW.step = stop
from angularkd.cli import main
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json-file", type=Path)
    parser.add_argument("command", nargs="+", help="of angularkd, behind --")
    options = parser.parse_args()
    seconds = [start(options.command) for _ in range(options.repeats)]
    rows = [
        (name, f"{value(seconds):.1f}")
        for name, value in (("median", statistics.median), ("least", min), ("most", max))
    ]
    report(f"From the start to the first step of angularkd {options.command[0]}", ("", "s"), rows)
    write(options.json_file, {"seconds": seconds, "command": options.command, "made_on": environment()})


def start(command: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        whole = [sys.executable, "-c", STOP_AT_FIRST_STEP, *command, "--compile", "never", "--out", f"{folder}/run"]
        started = time.time()
        ran = subprocess.run(whole, capture_output=True, text=True)
    line = next((line for line in ran.stdout.splitlines() if line.startswith("first step at")), None)
    if line is None:
        raise SystemExit(f"no step was made: {(ran.stderr or ran.stdout).strip().splitlines()[-1]}")
    return float(line.rpartition(" ")[2]) - started


if __name__ == "__main__":
    main()
