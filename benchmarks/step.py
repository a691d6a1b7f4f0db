"""What a training step costs: the student alone, with the live teacher, with its cache, and as a plain loop.

    python benchmarks/step.py [--teacher cifar/wrn_16_3] [--student cifar/wrn_16_1] [--eager] [--rounds 15]
        [--precision bfloat16] [--give-back]

Contenders, each a whole optimiser step on the same batch (SGD with momentum):

    teacher        its forward alone, with the features of the paired stages extracted
    student alone  cross-entropy with the labels
    live           ce + kd + amd with the teacher running
    cached         the same with the teacher's answers read from a cache on disk
    plain loop     the same as live, in plain eager PyTorch with AMD as its authors wrote it down

All but the plain loop are compiled unless --eager is given. All, the plain loop too, run with memory kept as the engine
keeps it on the CPU (`keep_freed_memory`) unless --give-back is given. Seconds are medians over rounds that run each contender
once; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd import Distiller
from angularkd.distillation import About, CachedTeacher, LiveTeacher
from angularkd.features import FeatureExtractor, find_stages, trace
from angularkd.models import open_classifier
from angularkd.system.compiling import options_for
from angularkd.system.memory import keep_freed_memory
from contenders.eager_amd import published
from contenders.setting import AMD, CE, KD, OBJECTIVE, TEMPERATURE
from measuring import environment, in_rounds, ratio, report, shown, write

LAYOUT = torch.channels_last


def main() -> None:
    options = parse()
    if options.device == "cpu" and not options.give_back:
        keep_freed_memory()
    torch.manual_seed(0)
    teacher, student = (model(spec, options) for spec in (options.teacher, options.student))
    images = torch.rand(options.batch_size, 3, options.image_size, options.image_size, device=options.device)
    images = images.to(memory_format=LAYOUT)
    labels = torch.randint(0, 10, (options.batch_size,), device=options.device)
    indices = torch.arange(options.batch_size)

    arithmetic = torch.autocast(images.device.type, torch.bfloat16, enabled=options.precision == "bfloat16")

    def step(loss: Callable[[], Tensor], trained: nn.Module = student, fused: bool = True) -> Callable[[], None]:
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.0, momentum=0.9, nesterov=True, fused=fused)

        def run() -> None:
            with arithmetic:
                total = loss()
            total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    with tempfile.TemporaryDirectory() as folder:
        about = About("benchmark", "none", "32-true", "noise", {}, samples=len(images), views_count=1)
        live_teacher, cached_teacher = LiveTeacher(teacher), CachedTeacher(LiveTeacher(teacher), Path(folder), about)
        live, cached = (
            Distiller(holder, student, OBJECTIVE, example=images[:1]).train()
            for holder in (live_teacher, cached_teacher)
        )
        alone = Distiller(None, student, {"ce": 1.0}).train()
        if not options.eager:
            for distiller in (live, cached, alone):
                distiller.compile(**options_for(images.device))
        parts = {
            "teacher": arithmetic(lambda: live_teacher(images)),
            "student alone": step(lambda: alone(images, labels).total),
            "live": step(lambda: live(images, labels).total),
            "cached": step(lambda: cached(images, labels, indices, 0).total),
            "plain loop": step(*plain_loss(options, images, labels), fused=False),
        }
        times = in_rounds(parts, options.rounds)
    result = {
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in times.items()},
        "cached_over_alone": ratio(times["cached"], times["student alone"]),
        "live_over_parts": ratio(times["live"], times["teacher"], times["student alone"]),
        "plain_over_cached": ratio(times["plain loop"], times["cached"]),
        "plain_over_live": ratio(times["plain loop"], times["live"]),
        "options": {key: str(value) for key, value in vars(options).items()},
        "made_on": environment(),
    }
    rows = [(name, f"{one:.1f}") for name, one in result["milliseconds"].items()]
    lines = [
        f"cached / student alone:           {shown(result['cached_over_alone'])}",
        f"live / (teacher + student alone): {shown(result['live_over_parts'])}",
        f"plain loop / cached:              {shown(result['plain_over_cached'])}",
        f"plain loop / live:                {shown(result['plain_over_live'])}",
    ]
    title = f"A step of {options.teacher} -> {options.student}, batch {options.batch_size}"
    report(title, ("", "ms"), rows, lines)
    write(options.json_file, result)


def model(spec: str, options: argparse.Namespace) -> nn.Module:
    return open_classifier(spec, 10).module.to(options.device, memory_format=LAYOUT)


def plain_loss(options: argparse.Namespace, images: Tensor, labels: Tensor) -> tuple[Callable[[], Tensor], nn.Module]:
    """The objective by hand and its own student, in PyTorch's usual memory format."""
    teacher, student = (
        open_classifier(spec, 10).module.to(options.device) for spec in (options.teacher, options.student)
    )
    images = images.contiguous()
    stages = [find_stages(network, trace(network, images[:1]))[-3:] for network in (teacher.eval(), student.eval())]
    extractors = [FeatureExtractor(network, at) for network, at in zip((teacher, student), stages, strict=True)]
    student.train()

    def loss() -> Tensor:
        with torch.no_grad():
            teacher_output = extractors[0](images)
        student_output = extractors[1](images)
        ours, theirs = (F.log_softmax(one.logits / TEMPERATURE, dim=1) for one in (student_output, teacher_output))
        soft = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        amd = published(student_output.features[None], teacher_output.features[None])
        return CE * F.cross_entropy(student_output.logits, labels) + KD * TEMPERATURE**2 * soft + AMD * amd

    return loss, student


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="cifar/wrn_16_3")
    parser.add_argument("--student", default="cifar/wrn_16_1")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--give-back", action="store_true", help="leave freed memory to the C library's usual ways")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
