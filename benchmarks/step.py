"""What a step of AMD distillation costs beside its parts: the teacher's forward and the student's own training step.

    python benchmarks/step.py [--teacher cifar/wrn_16_3] [--student cifar/wrn_16_1] [--batch-size 128] [--repeats 9]

Prints, and writes to --json-file if asked, the median seconds of each and the ratio
distillation / (teacher's forward + student's training step), taken round by round in one process, so that noise of
the machine hits all three alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from angularkd import Distiller
from angularkd.models.sources import open_classifier

LOSSES = {"ce": 0.1, "kd": 0.9, "amd": 5000.0}


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    teacher = open_classifier(options.teacher, 10).module
    student = open_classifier(options.student, 10).module
    images = torch.rand(options.batch_size, 3, options.image_size, options.image_size)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (options.batch_size,))
    distilling = Distiller(teacher, student, LOSSES, example=images).to(memory_format=torch.channels_last)
    alone = Distiller(None, student, {"ce": 1.0}).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0, momentum=0.9, nesterov=True)

    def teach() -> None:
        with torch.no_grad():
            teacher(images)

    def train_with(distiller: nn.Module) -> Callable[[], None]:
        def step() -> None:
            distiller(images, labels).total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    parts = {"teacher forward": teach, "student alone": train_with(alone), "AMD, live teacher": train_with(distilling)}
    distilling.train()
    times = measure(parts, options.repeats)
    ratios = [both / (forward + own) for forward, own, both in zip(*(times[name] for name in parts), strict=True)]
    result = {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "repeats": options.repeats,
        "pair": f"{options.teacher} -> {options.student}",
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    for name, seconds in result["seconds"].items():
        print(f"{name:<20} {seconds * 1e3:8.1f} ms a step")
    low, high = result["ratio_range"]
    print(f"AMD / (teacher forward + student alone): {result['ratio']:.3f}  (from {low:.3f} to {high:.3f})")
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(result, indent=2) + "\n")


def measure(parts: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each part, in rounds that run every part once; two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for round_ in range(repeats + 2):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if round_ >= 2:
                times[name].append(time.perf_counter() - started)
    return times


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="cifar/wrn_16_3")
    parser.add_argument("--student", default="cifar/wrn_16_1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
