"""How costs grow: with the size of images, the batch, the paired stages, the teacher, decoding workers, and processes.

    python benchmarks/scale.py [--only image_size batch_size ...] [--compile] [--rounds 7] [--json-file scale.json]

For the first four, one thing at a time is varied around WRN-16-3 -> WRN-16-1 at 32x32, batch 64, and a step is timed: of the
student alone, with the live teacher, and with its cache (answers read from a file). Ratios are taken round by round.
Workers: images a second of `StreamingLoader` over JPEG images of 256x256, cropped at random to 128x128.
Processes: images a second of the live step under DistributedDataParallel (gloo), the cores shared out among them.
All is eager unless --compile is given, which takes minutes for each of the rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from angularkd import Distiller
from angularkd.data import StreamingLoader, Views, WorkerPool, open_data
from angularkd.distillation import About, CachedTeacher, LiveTeacher, Teacher
from angularkd.features import pair_models, trace
from angularkd.models import open_classifier
from angularkd.system.compiling import options_for
from angularkd.system.memory import keep_freed_memory
from contenders.setting import OBJECTIVE
from measuring import environment, in_rounds, ratio, report, write

BASE = {"image_size": 32, "batch_size": 64, "stages": 3, "teacher": "cifar/wrn_16_3"}
VARIED: dict[str, tuple[Any, ...]] = {
    "image_size": (32, 64, 96),
    "batch_size": (16, 64, 256),
    "stages": (1, 2, 3),
    "teacher": ("cifar/wrn_16_1", "cifar/wrn_16_3", "cifar/wrn_28_3"),
}
STUDENT = "cifar/wrn_16_1"
PHOTOGRAPHS = 512
STEPS = 5
"""That a process times."""


def main() -> None:
    options = parse()
    keep_freed_memory()
    results: dict[str, Any] = {}
    for what, values in VARIED.items():
        if what in options.only:
            results[what] = {str(value): step_costs({**BASE, what: value}, options) for value in values}
            rows = [
                (
                    value,
                    *(f"{one:.1f}" for one in cost["milliseconds"].values()),
                    f"{cost['cached_over_alone']['median']:.2f}",
                )
                for value, cost in results[what].items()
            ]
            report(f"ms a step by {what}", (what, "student alone", "live", "cached", "cached / alone"), rows)
    measured: dict[str, Callable[[int, argparse.Namespace], float]] = {"workers": decoding, "processes": distributed}
    for what, measure in measured.items():
        if what in options.only:
            counts = [count for count in (1, 2, 4, 8) if count <= cores()]
            results[what] = {str(count): measure(count, options) for count in counts}
            report(f"images/s by {what}", (what, "images/s"), [(n, f"{v:,.0f}") for n, v in results[what].items()])
    chosen = {key: str(value) for key, value in vars(options).items()}
    write(options.json_file, {**results, "options": chosen, "made_on": environment()})


def step_costs(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Medians of the three steps and their ratio."""
    images, labels = batch_of(case["batch_size"], case["image_size"])
    indices = torch.arange(len(images))
    with tempfile.TemporaryDirectory() as folder:
        about = About("benchmark", "none", "32-true", "noise", {}, samples=len(images), views_count=1)
        live = distiller_of(case, images)
        cached = distiller_of(case, images, lambda teacher: CachedTeacher(LiveTeacher(teacher), Path(folder), about))
        alone = Distiller(None, live.student, {"ce": 1.0}).train()
        for distiller in (live, cached, alone) if options.compile else ():
            distiller.compile(**options_for(images.device))
        parts = {
            "student alone": lambda: alone(images, labels).total.backward(),
            "live": lambda: live(images, labels).total.backward(),
            "cached": lambda: cached(images, labels, indices, 0).total.backward(),
        }
        times = in_rounds(parts, options.rounds)
    return {
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in times.items()},
        "cached_over_alone": ratio(times["cached"], times["student alone"]),
        "live_over_alone": ratio(times["live"], times["student alone"]),
    }


def batch_of(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.rand(count, 3, size, size).to(memory_format=torch.channels_last)
    return images, torch.randint(0, 10, (count,))


def distiller_of(
    case: dict[str, Any], images: torch.Tensor, holder: Callable[[torch.nn.Module], Teacher] = LiveTeacher
) -> Distiller:
    torch.manual_seed(0)
    teacher, student = (
        open_classifier(spec, 10).module.to(memory_format=torch.channels_last) for spec in (case["teacher"], STUDENT)
    )
    traces = [trace(model, images[:1]) for model in (teacher.eval(), student)]
    pairs = pair_models(teacher, student, *traces)[-case["stages"] :]
    return Distiller(holder(teacher), student, OBJECTIVE, pairs=pairs, example=images[:1]).train()


def decoding(workers: int, options: argparse.Namespace) -> float:
    """Images a second that so many processes decode, crop and flip."""
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)
        for number in range(PHOTOGRAPHS):
            (place := Path(folder) / str(number % 2)).mkdir(exist_ok=True)
            picture.save(place / f"{number}.jpg", quality=90)
        split = open_data(folder).train
        views = Views(("resized_crop", "flip"), len(split), (128, 128), 0)
        settings = {"seed": 0, "shuffle": True, "drop_last": False, "pool": WorkerPool([split.store], workers)}
        loader = StreamingLoader(split, views, 64, **settings)
        speeds = []
        for epoch in range(1 + options.rounds):
            started = time.perf_counter()
            for _ in loader.epoch(epoch):
                pass
            speeds.append(len(split) / (time.perf_counter() - started))
    return statistics.median(speeds[1:])


def distributed(processes: int, options: argparse.Namespace) -> float:
    """Images a second of all processes together, each with a batch of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        told = context.SimpleQueue()
        started = [
            context.Process(target=one_process, args=(rank, processes, f"file://{folder}/meet", told))
            for rank in range(processes)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
            if process.exitcode:
                raise SystemExit(f"a process of {processes} ended with {process.exitcode}")
        return sum(told.get() for _ in started)


def one_process(rank: int, processes: int, meeting: str, told: Any) -> None:
    keep_freed_memory()
    torch.set_num_threads(max(1, cores() // processes))
    init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    images, labels = batch_of(BASE["batch_size"], BASE["image_size"])
    distiller = DistributedDataParallel(distiller_of(BASE, images))
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.0)
    seconds = []
    for _ in range(2 + STEPS):
        started = time.perf_counter()
        distiller(images, labels).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    told.put(len(images) / statistics.median(seconds[2:]))
    destroy_process_group()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = (*VARIED, "workers", "processes")
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
