"""Whether a student of a cached teacher is the student of the live one: several seeds, each run both ways.

    python benchmarks/agreement.py DATA --teacher cifar/resnet20 --teacher-weights FILE [--images 10000] [--seeds 0 1 2]

Distils on the first --images of the training split, twice for each seed, with the teacher live and through a cache that
starts empty. Prints, for each run, its first step's terms (before any weight has moved) and the accuracies of the
last epoch; the cache rounds to float16, so the first agree within that, the second within the noise of training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import angularkd
from angularkd.config import DistillConfig
from angularkd.data import open_data
from angularkd.system.modes import seeded
from angularkd.training import build_distillation, open_dataset
from measuring import environment, report, write
from subset import write_first


def main() -> None:
    options = parse()
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_first(open_data(options.data), options.images, folder / "data", beside=options.validation)
        for seed in options.seeds:
            for way in ("live", "cached"):
                runs[f"seed {seed}, {way}"] = run(options, folder, seed, way)
    rows = [
        (name, *(f"{value:.5f}" for value in found["terms"].values()), f"{found['val']:.2%}", f"{found['test']:.2%}")
        for name, found in runs.items()
    ]
    terms = next(iter(runs.values()))["terms"]
    both = {way: [found for name, found in runs.items() if name.endswith(way)] for way in ("live", "cached")}
    off = [
        abs(cached["terms"][name] / live["terms"][name] - 1)
        for live, cached in zip(both["live"], both["cached"], strict=True)
        for name in terms
    ]
    lines = [
        f"{way}: validation {spread([one['val'] for one in found])}, test {spread([one['test'] for one in found])}"
        for way, found in both.items()
    ]
    lines.append(f"first terms differ by {max(off):.1e} of themselves at most")
    report("Live and cached teacher", ("", *terms, "validation", "test"), rows, lines)
    chosen = {key: str(value) for key, value in vars(options).items()}
    write(options.json_file, {"runs": runs, "first_terms_off": max(off), "options": chosen, "made_on": environment()})


def run(options: argparse.Namespace, folder: Path, seed: int, way: str) -> dict[str, Any]:
    """The first step's terms, and the accuracies in the end."""
    asked = {
        "data": f"parquet:{folder / 'data'}",
        "teacher": options.teacher,
        "teacher_weights": options.teacher_weights,
        "student": options.student,
        "augment": ("flip",),
        "schedule": "onecycle",
        "epochs": options.epochs,
        "seed": seed,
        "compile": options.compile,
        "cache": str(folder / "cache") if way == "cached" else None,
    }
    config = DistillConfig.from_options(**asked)
    with seeded(seed):
        job = build_distillation(config, open_dataset(config))
    batch = next(job.batches.epoch(0))
    terms = job.distiller.train()(batch.images, batch.labels, batch.indices, batch.view).terms
    metrics = angularkd.distill(**asked, out=str(folder / f"{way}-{seed}"))
    last = metrics.results["metrics"]["last epoch"]["accuracy"]
    rows = (metrics.folder / "metrics.jsonl").read_text().splitlines()
    validation = json.loads(rows[-1])["val_accuracy"]
    return {"terms": {name: float(term.detach()) for name, term in terms.items()}, "val": validation, "test": last}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2%} +- {statistics.stdev(values) if len(values) > 1 else 0:.2%}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a SPEC as angularkd takes it, of images of one size")
    parser.add_argument("--teacher", default="cifar/resnet20")
    parser.add_argument("--teacher-weights", required=True)
    parser.add_argument("--student", default="cifar/resnet8")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--validation", type=int, default=1000, help="validation images, and as many for the test")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--compile", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
