"""Images a second that worker processes decode, crop and flip, in processes of their own for each round.

    python benchmarks/workers.py [--workers 2] [--images 2048] [--size 256] [--rounds 7] [--other "COMMAND"]

The images are JPEGs in a folder made for this, of --size pixels a side, cropped at random to --crop. A round starts a process,
which reads one epoch to warm up and times the next. With --other, each round also runs that command, with the folder, the
workers, the batch size and the crop behind it: a script that does the same with other code, for example an older
checkout, and prints its images a second last. The ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from angularkd.data import StreamingLoader, Views, WorkerPool, open_data
from measuring import environment, ratio, report, shown, write


def main() -> None:
    """Compare, or measure once in this process."""
    options = parse()
    if options.once is not None:
        print(measure(options.once, options.workers, options.batch_size, options.crop))
        return
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_photographs(folder, options.images, options.size)
        settings = [str(value) for value in (options.workers, options.batch_size, options.crop)]
        names = ("--workers", "--batch-size", "--crop")
        flags = [part for pair in zip(names, settings, strict=True) for part in pair]
        commands = {"StreamingLoader": [sys.executable, __file__, "--once", str(folder), *flags]}
        if options.other is not None:
            commands["other"] = [*shlex.split(options.other), str(folder), *settings]
        speeds = alternate(commands, options.rounds)
    lines = []
    result = {"images_per_second": {name: statistics.median(values) for name, values in speeds.items()}}
    if "other" in speeds:
        result["over_other"] = ratio(speeds["StreamingLoader"], speeds["other"])
        lines.append(f"StreamingLoader's speed / other's: {shown(result['over_other'])}")
    rows = [(name, f"{statistics.median(values):,.0f}") for name, values in speeds.items()]
    report(f"{options.workers} workers, {options.size} -> {options.crop} pixels", ("", "images/s"), rows, lines)
    chosen = {key: str(value) for key, value in vars(options).items()}
    write(options.json_file, {**result, "options": chosen, "made_on": environment()})


def alternate(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Run every command once a round, and read the last line that each prints."""
    speeds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
            speeds[name].append(float(done.stdout.splitlines()[-1]))
    return speeds


def measure(folder: str, workers: int, batch_size: int, crop: int) -> float:
    """Return the images a second of a second epoch."""
    dataset = open_data(folder)
    split = dataset.train
    views = Views(("resized_crop", "flip"), len(split), (crop, crop), 0)
    pool = WorkerPool([split.store], workers)
    loader = StreamingLoader(split, views, batch_size, seed=0, shuffle=True, drop_last=False, pool=pool)
    for epoch in range(2):
        started = time.perf_counter()
        for _ in loader.epoch(epoch):
            pass
    return len(split) / (time.perf_counter() - started)


def write_photographs(folder: Path, count: int, size: int) -> None:
    """Write smooth JPEGs of noise, half of them into each of two class folders."""
    generator = np.random.default_rng(0)
    for number in range(count):
        (place := folder / str(number % 2)).mkdir(exist_ok=True)
        colours = generator.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)
        picture.save(place / f"{number}.jpg", quality=90)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--other", metavar="COMMAND")
    parser.add_argument(
        "--once", metavar="FOLDER", help="measure the images of a folder once, and print the speed alone"
    )
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
