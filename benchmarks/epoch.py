"""Images a second over whole training epochs on real images: angularkd, torchdistill, and a plain PyTorch loop.

    python benchmarks/epoch.py --data cifar10:DIR [--rounds 7] [--torchdistill-python PATH] [--json-file FILE]

All distil the same teacher into the same student, on the same first --images of the training split, flipped at random, with
0.1 CE + 0.9 KD at T = 4 + 5000 AMD and SGD. Every contender is a process of its own (contenders/), with its own
threads and workers, that sleeps until its turn; in each round every one trains for one epoch. They are

    cached, live          angularkd's engine, compiled, its teacher answering from a full cache, or running in every step
    careful               a DataLoader with workers, channels_last, teacher, student and stable losses under one torch.compile
    plain                 a DataLoader with workers, torchvision's transforms, everything eager
    torchdistill          as its own image classification example puts it together
    ...-channels-last     these two, with models and images in that memory format, in which angularkd always is
    ...-bf16              the first three in bf16, all others being in float32; only where --contenders names them

Timed is training: from the request of an epoch's first batch to its end, loading and augmentation included. Not timed are
decoding (all keep decoded images in memory), compilation (one to two minutes, in angularkd and `careful`), filling the cache (the
teacher's forward for every image in both views, once for all epochs and runs; what `live` pays in every epoch), a first
epoch of each contender, evaluation and checkpoints. The teacher's weights are random: none of its accuracy is at stake.

Ratios are of images a second in the same precision, taken round by round: above 1 the first named is the faster.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from angularkd.data import open_data
from angularkd.errors import InputError
from contenders.setting import parser_of
from measuring import environment, ratio, report, shown, write
from subset import write_first

SCRIPTS = {
    "cached": ("ours_epoch.py", "--teacher-mode", "cached"),
    "live": ("ours_epoch.py", "--teacher-mode", "live"),
    "careful": ("careful_epoch.py",),
    "cached-bf16": ("ours_epoch.py", "--teacher-mode", "cached", "--precision", "bf16"),
    "live-bf16": ("ours_epoch.py", "--teacher-mode", "live", "--precision", "bf16"),
    "careful-bf16": ("careful_epoch.py", "--precision", "bf16"),
    "plain": ("plain_epoch.py",),
    "plain-channels-last": ("plain_epoch.py", "--channels-last"),
    "torchdistill": ("torchdistill_epoch.py",),
    "torchdistill-channels-last": ("torchdistill_epoch.py", "--channels-last"),
}
OURS = ("cached", "live", "cached-bf16", "live-bf16")
PATIENCE_SECONDS = 10.0
"""For a contender to exit by itself at the end."""


def main() -> None:
    options = parse()
    if options.images < options.batch_size:
        raise SystemExit(f"--images {options.images}: expected at least a batch of {options.batch_size}")
    names = available(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="angularkd-epoch-")))
        write_first(open_data(options.data), options.images, folder)
        contenders = {}
        for name in names:
            tell(f"{name}: getting ready")
            contenders[name] = stack.enter_context(Contender(name, command_of(name, folder, options)))
            contenders[name].get_ready()
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for round_ in range(options.rounds):
            for name, contender in contenders.items():
                speeds[name].append(contender.run_epoch())
            tell(f"round {round_ + 1} of {options.rounds}")
    ratios = {
        f"{own} / {rival}": ratio(speeds[own], speeds[rival])
        for own in OURS
        for rival in names
        if own in names and rival not in OURS and own.endswith("-bf16") == rival.endswith("-bf16")
    }
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result = {
        "images_per_second": medians,
        "ratios": ratios,
        "rounds": speeds,
        "contenders": {name: contender.about for name, contender in contenders.items()},
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
    }
    rows = [(name, f"{speed:,.0f}") for name, speed in medians.items()]
    lines = [f"{options.teacher} -> {options.student}, median of {options.rounds} epochs of {options.images} images"]
    lines += [f"{name}: {shown(found)}" for name, found in ratios.items()]
    pytorch = sorted({contender.about["torch"] for contender in contenders.values()})
    if len(pytorch) > 1:
        lines.append(f"note: not all run the same PyTorch: {', '.join(pytorch)}")
    report("Whole training epochs", ("contender", "images/s"), rows, lines)
    write(options.json_file, result)


class Contender:
    """A script in a process of its own, spoken to as contenders/serving.py says; killed, with its workers, on leaving."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.about: dict[str, Any] = {}
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            start_new_session=True,
        )

    def get_ready(self) -> None:
        self.about = self._answer()

    def run_epoch(self) -> float:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            print("epoch", file=self._process.stdin, flush=True)
        return self._answer()["images_per_second"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._complaints.seek(0)
            raise SystemExit(f"{self.name} ended with {status}: {last_line(self._complaints.read())}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with suppress(subprocess.TimeoutExpired, BrokenPipeError):
                self._process.communicate(timeout=PATIENCE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._complaints.close()


def command_of(name: str, folder: Path, options: argparse.Namespace) -> list[str]:
    script, *flags = SCRIPTS[name]
    python = options.torchdistill_python if name.startswith("torchdistill") else sys.executable
    shared = ["--data", f"parquet:{folder}", "--teacher", options.teacher, "--student", options.student]
    shared += ["--batch-size", str(options.batch_size), "--device", options.device]
    if name in OURS:
        more = ["--folder", str(folder), *([] if options.compile else ["--no-compile"])]
    else:
        more = ["--workers", str(options.workers)]
    return [python, str(Path(__file__).parent / "contenders" / script), *flags, *shared, *more]


def available(options: argparse.Namespace) -> list[str]:
    """The contenders asked for, without torchdistill where it cannot be imported beside angularkd; a line says so."""
    others = [name for name in options.contenders if not name.startswith("torchdistill")]
    if others == options.contenders:
        return others
    tried = [options.torchdistill_python, "-c", "import angularkd, torchdistill"]
    ran = subprocess.run(tried, stderr=subprocess.PIPE, text=True)
    if ran.returncode == 0:
        return options.contenders
    tell(
        f"torchdistill is left out ({last_line(ran.stderr)}): pip install -c constraints.txt torchdistill, or name the "
        "Python of an environment that has it and angularkd with --torchdistill-python"
    )
    return others


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    in_float32 = [name for name in SCRIPTS if not name.endswith("-bf16")]
    parser.add_argument("--images", type=int, default=2560, help="an epoch's, the first of the training split")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each contender that count")
    parser.add_argument("--workers", type=int, default=2, help="processes of the rivals' data loaders")
    parser.add_argument("--contenders", nargs="+", choices=SCRIPTS, default=in_float32)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave angularkd uncompiled")
    parser.add_argument("--torchdistill-python", default=sys.executable, help="the Python of an environment with it")
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
