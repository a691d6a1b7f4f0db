"""Every loss beside cross-entropy: does it train, how far does it get, and what does its step cost?

    python benchmarks/losses.py [--seeds 3] [--epochs 6] [--out benchmarks/losses] [--only amd at ...]

A ResNet-20 teaches a ResNet-8 on scikit-learn's 8x8 digits, in the demo's recipe with gradients clipped at norm 5. The
objective is ce = 1 and the loss with a weight that is the same rule for all and tuned for none: its first gradient at
the student's parameters is as long as that of ce (rounded to two digits, taken at seed 0). The cost of a step is
measured apart, on random images of 32 pixels, batch 64: the losses take turns in every round, ce alone among them.

Writes OUT.json, with every run, and OUT.md, the table. Runs that are there already are not made again.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import angularkd
from angularkd.distillation import Distiller
from angularkd.losses import LOSSES
from angularkd.models import cifar

TEACHER, STUDENT = "cifar/resnet20", "cifar/resnet8"
RECIPE: dict[str, Any] = {
    "data": "digits",
    "image_size": 8,
    "batch_size": 64,
    "schedule": "onecycle",
    "lr": 0.05,
    "clip_norm": 5.0,
}
OPTIONS: dict[str, dict[str, Any]] = {"crd": {"num_negatives": 256}}
"""Options beside the defaults: CRD's 16384 negatives are more than digits has images."""
OTHERS = [name for name in LOSSES if name not in ("ce", "token")]
"""All but ce, which each is beside, and token, which needs a student with two heads."""


def main() -> None:
    options = parse()
    names = ["ce", *(name for name in OTHERS if not options.only or name in options.only)]
    file = options.out.with_suffix(".json")
    results = json.loads(file.read_text()) if file.exists() else {"runs": {}, "weights": {}, "teacher": {}}
    folder = Path(tempfile.mkdtemp(prefix="angularkd-losses-"))
    try:
        for seed in range(options.seeds):
            teacher = folder / f"teacher-{seed}"
            missing = [name for name in names if f"{name}-{seed}" not in results["runs"]]
            if missing or not results["weights"]:
                run = angularkd.train(model=TEACHER, epochs=options.epochs, seed=seed, out=str(teacher), **RECIPE)
                results["teacher"][str(seed)] = run.results["metrics"]["last epoch"]["accuracy"]
            for name in missing:
                if name not in results["weights"]:
                    results["weights"][name] = weight_of(name, str(teacher))
                accuracy = distil(name, results["weights"][name], str(teacher), seed, options.epochs, folder)
                results["runs"][f"{name}-{seed}"] = accuracy
                print(f"seed {seed}  ce + {name:<8} {accuracy:.2%}", flush=True)
                file.write_text(json.dumps(results, indent=2) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results["step"] = step_costs(names, options.repeats)
    results["machine"] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "seeds": options.seeds,
        "epochs": options.epochs,
        "repeats": options.repeats,
    }
    file.write_text(json.dumps(results, indent=2) + "\n")
    text = as_markdown(results, names, options.seeds)
    options.out.with_suffix(".md").write_text(text)
    print(text)


def objective(name: str, weight: float) -> dict[str, Any]:
    losses: dict[str, Any] = {"ce": 1.0}
    if name != "ce":
        losses[name] = {"weight": weight, **OPTIONS.get(name, {})}
    return losses


def weight_of(name: str, teacher: str) -> float:
    """The weight with which the loss's first gradient is as long as that of ce, to two digits."""
    if name == "ce":
        return 1.0
    shares = angularkd.plan(teacher=teacher, student=STUDENT, loss=objective(name, 1.0), **RECIPE).gradient_share
    return float(f"{shares['ce'] / shares[name]:.2g}")


def distil(name: str, weight: float, teacher: str, seed: int, epochs: int, folder: Path) -> float:
    """Test accuracy of the last epoch's student."""
    out = str(folder / f"{name}-{seed}")
    losses = objective(name, weight)
    run = angularkd.distill(teacher=teacher, student=STUDENT, loss=losses, epochs=epochs, seed=seed, out=out, **RECIPE)
    return run.results["metrics"]["last epoch"]["accuracy"]


def step_costs(names: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Of each objective the median seconds of forward, backward and update, and the median ratio to ce's in the same round."""
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32).to(memory_format=torch.channels_last)
    labels, indices = torch.randint(0, 10, (64,)), torch.arange(64)
    parts = {}
    for name in names:
        teacher = cifar.create(TEACHER.removeprefix("cifar/"), 10) if name != "ce" else None
        student = cifar.create(STUDENT.removeprefix("cifar/"), 10)
        distiller = Distiller(
            teacher, student, objective(name, 1e-3), example=images, train_labels=torch.arange(2000) % 10
        ).to(memory_format=torch.channels_last)
        parts[name] = step_of(distiller, images, labels, indices)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(repeats + 2):
        for name, step in parts.items():
            started = time.perf_counter()
            step()
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            "seconds": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, seconds["ce"], strict=True)),
        }
        for name, values in seconds.items()
    }


def step_of(
    distiller: Distiller, images: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    distiller.train()

    def step() -> None:
        distiller(images, labels, indices).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def as_markdown(results: dict[str, Any], names: list[str], seeds: int) -> str:
    teacher = [100 * value for value in results["teacher"].values()]
    lines = [
        f"Teacher ({TEACHER}): {spread(teacher)}. Student {STUDENT}. Test accuracy of the last epoch, mean ± standard",
        f"deviation over {seeds} seeds. Step: seconds relative to ce alone, which needs no teacher.",
        "",
        "| objective | weight | accuracy, % | step |",
        "|---|---|---|---|",
    ]
    for name in names:
        accuracies = [100 * results["runs"][f"{name}-{seed}"] for seed in range(seeds)]
        label = "ce" if name == "ce" else f"ce + {name}"
        weight = "" if name == "ce" else f"{results['weights'][name]:g}"
        lines.append(f"| {label} | {weight} | {spread(accuracies)} | {results['step'][name]['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/losses"))
    parser.add_argument("--only", nargs="+", choices=OTHERS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
