"""What bf16 gains over float32 in a training step, for which `--precision auto` decides by the processor.

    python benchmarks/precision.py [--teacher cifar/wrn_16_3] [--student cifar/wrn_16_1] [--image-size 32]
        [--batch-size 128] [--classes 10] [--compile] [--threads 1] [--rounds 9]

Each part is timed in both precisions, in rounds that run all of them once: whole optimiser steps (SGD with momentum) of the
student alone, with its teacher live, and with the teacher's answers read from a cache on disk, and the student's prediction of
the batch. Seconds are medians over the rounds; the ratios, float32's seconds over bf16's, are taken round by round: above 1 bf16
is the faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from angularkd import Distiller
from angularkd.distillation import About, CachedTeacher, LiveTeacher
from angularkd.models import open_classifier
from angularkd.system.compiling import options_for
from angularkd.system.memory import keep_freed_memory
from contenders.setting import OBJECTIVE
from measuring import environment, in_rounds, ratio, report, shown, write

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does on the CPU
    torch.manual_seed(0)
    images = torch.rand(options.batch_size, 3, options.image_size, options.image_size)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, options.classes, (options.batch_size,))
    parts: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            found = steps_of(precision, images, labels, Path(folder), options)
            parts |= {f"{name}, {precision}": part for name, part in found.items()}
        times = in_rounds(parts, options.rounds)
    names = dict.fromkeys(name.rpartition(", ")[0] for name in parts)
    ratios = {name: ratio(times[f"{name}, float32"], times[f"{name}, bf16"]) for name in names}
    result = {
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in times.items()},
        "float32_over_bf16": ratios,
        "options": {key: str(value) for key, value in vars(options).items()},
        "made_on": environment(),
    }
    milliseconds = result["milliseconds"]
    rows = [
        (name, f"{milliseconds[f'{name}, float32']:.1f}", f"{milliseconds[f'{name}, bf16']:.1f}", shown(ratios[name]))
        for name in names
    ]
    how = f"{'compiled' if options.compile else 'eager'}, {options.threads} thread{'s' * (options.threads > 1)}"
    title = f"{options.teacher} -> {options.student}, {options.image_size} px, batch {options.batch_size}, {how}"
    report(title, ("", "float32, ms", "bf16, ms", "float32 / bf16"), rows)
    write(options.json_file, result)


def steps_of(
    precision: str, images: Tensor, labels: Tensor, folder: Path, options: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    """The parts to time in one precision, with networks of their own."""
    dtype = PRECISIONS[precision]
    teacher, student = (
        open_classifier(spec, options.classes).module.to(memory_format=torch.channels_last)
        for spec in (options.teacher, options.student)
    )
    about = About("benchmark", "none", precision, "noise", {}, samples=len(images), views_count=1)
    holders = {"live": LiveTeacher(teacher), "cached": CachedTeacher(LiveTeacher(teacher), folder, about)}
    distillers = {
        "student alone": Distiller(None, student, {"ce": 1.0}),
        **{name: Distiller(holder, student, OBJECTIVE, example=images[:1]) for name, holder in holders.items()},
    }
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0, momentum=0.9, nesterov=True, fused=True)
    arithmetic = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
    indices = torch.arange(len(images))

    def step_of(distiller: nn.Module) -> Callable[[], None]:
        distiller.train()
        if options.compile:
            distiller.compile(**options_for(images.device))

        def step() -> None:
            with arithmetic:
                total = distiller(images, labels, indices, 0).total
            total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def predict() -> None:
        student.eval()
        with torch.no_grad(), arithmetic:
            student(images)
        student.train()

    return {**{name: step_of(distiller) for name, distiller in distillers.items()}, "prediction": predict}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="cifar/wrn_16_3")
    parser.add_argument("--student", default="cifar/wrn_16_1")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
