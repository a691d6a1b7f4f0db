"""Whether a cheaper way of training is as good: variants of one distillation, paired by seed, compared on validation images.

    python benchmarks/paired.py DATA --teacher cifar/resnet56 --teacher-weights FILE --student cifar/wrn_16_1 --work FOLDER
        --variants "float32: precision=32-true" "bf16: precision=bf16-mixed" [--images 5000] [--validation 2000] [--seeds 5]
        [--options augment=flip,epochs=8] [--json-file FILE]

DATA is opened as angularkd does; its first --images training images are trained on, and its first --validation validation images give
the accuracy of the last epoch, which is what is compared: the test images are not touched. A variant is a name and options of
`angularkd distill`. In each seed all variants run, in turn; the first is what the others are compared with. Finished runs
in --work are kept, so that an interrupted comparison goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

from angularkd.config import DistillConfig
from angularkd.data import open_data
from angularkd.runs import RunFolder
from angularkd.studies import difference
from angularkd.system.memory import keep_freed_memory
from angularkd.training import run_distillation
from measuring import environment, report, write
from subset import write_first

LOSS = {"ce": 1.0, "amd": {"weight": "auto", "share": 0.9, "centered": True}}


def main() -> None:
    options = parse()
    data = options.work / "data"
    if not data.exists():
        write_first(open_data(options.data), options.images, data, beside=options.validation)
    keep_freed_memory()  # as the command line does on the CPU
    variants = dict(read(text) for text in options.variants)
    accuracies: dict[str, dict[int, float]] = {name: {} for name in variants}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for seed in range(options.seeds):
        for name, chosen in variants.items():
            out = options.work / f"{name.replace(' ', '-')}-seed{seed}"
            row, took = last_epoch(out, {**settings(options, data), **chosen, "seed": seed})
            accuracies[name][seed] = row["val_accuracy"]
            seconds[name].append(took)
            print(f"seed {seed}, {name}: {accuracies[name][seed]:.2%}, {took:.0f} s", flush=True)
    first = next(iter(variants))
    lines = []
    result: dict[str, Any] = {"accuracies": accuracies, "seconds": seconds, "differences": {}, "made_on": environment()}
    for name in list(variants)[1:]:
        found = difference(accuracies[name], accuracies[first])
        assert found is not None and found.low is not None and found.high is not None
        low, middle, high = (100 * one for one in (found.low, found.mean, found.high))
        result["differences"][name] = {"mean": middle, "interval": [low, high], "seeds": found.n}
        lines.append(
            f"{name} - {first}: {middle:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, {found.n} seeds"
        )
    rows = [
        (name, f"{statistics.fmean(found.values()):.2%}", f"{statistics.median(seconds[name]):.0f}")
        for name, found in accuracies.items()
    ]
    report(f"{options.teacher} -> {options.student}", ("", "validation accuracy", "median s"), rows, lines)
    result["options"] = {key: str(value) for key, value in vars(options).items()}
    write(options.json_file, result)


def settings(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """The options that all variants share."""
    return {
        "data": f"parquet:{data}",
        "teacher": options.teacher,
        "teacher_weights": options.teacher_weights,
        "student": options.student,
        "loss": LOSS,
        "cache": str(options.work / "cache"),
        "schedule": "onecycle",
        "compile": "never",
        "insist": True,
        "report": False,
        **pairs(options.options),
    }


def last_epoch(out: Path, chosen: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The last row of a run's metrics and its seconds; it is run where it has not been."""
    folder = RunFolder(out)
    if not folder.results.exists():
        run_distillation(DistillConfig.from_options(**chosen, out=str(out), resume=folder.started))
    row = json.loads(folder.metrics.read_text().splitlines()[-1])
    return row, json.loads(folder.results.read_text())["seconds"]


def read(text: str) -> tuple[str, dict[str, Any]]:
    """A variant's name and its options."""
    name, _, chosen = text.partition(":")
    return name.strip(), pairs(chosen)


def pairs(text: str) -> dict[str, Any]:
    """Options as name=value, separated by commas; a list's values are separated by +."""
    found = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        found[name] = tuple(value.split("+")) if name == "augment" else yaml.safe_load(value)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--student", default="cifar/wrn_16_1")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--options", default="augment=flip,epochs=8")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
