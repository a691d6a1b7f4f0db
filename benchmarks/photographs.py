"""The README's commands on photographs: a teacher from scratch, then one student by train and by distill, at equal epochs.

    python benchmarks/photographs.py --folder FOLDER [--epochs 60] [--seeds 0 1 2]

FOLDER holds data/imagenette_224_subset.tar, class folders of photographs. The teacher is that of the README's first command,
`angularkd train photos --model cifar/wrn_40_2 --image-size 64 --epochs 60`; the student that of its main command, by the defaults of
both commands, and trained by labels alone. Figures are of the last epoch on the validation images; test images are not looked at here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import angularkd
from angularkd.runs import Run
from defaults import mean_and_spread, photographs
from measuring import environment, report

TEACHER, STUDENT, IMAGE_SIZE = "cifar/wrn_40_2", "cifar/wrn_16_1", 64
METRICS = ("val_accuracy", "val_nll", "val_ece")


def main() -> None:
    """Run what the command line asks for, and print a table."""
    options = parse()
    work = options.work or Path(tempfile.mkdtemp(prefix="angularkd-photographs-"))
    data = photographs(options.folder, work / "data")
    if data is None:
        raise SystemExit(
            f"there is no data/imagenette_224_subset.tar in {options.folder}: name its folder with --folder"
        )
    common: dict[str, Any] = {
        "data": data,
        "image_size": IMAGE_SIZE,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
    }
    teacher = work / "teacher"
    if not (teacher / "results.json").exists():
        angularkd.train(**common, model=TEACHER, out=teacher, resume=(teacher / "config.yaml").exists())
    found: dict[str, list[dict[str, float]]] = {"teacher": [last_epoch(teacher)]}
    for seed in options.seeds:
        for name, run in (("train", labels_alone), ("distill", distilled)):
            with tempfile.TemporaryDirectory(dir=work) as folder:
                row = last_epoch(run(common, teacher, seed, f"{folder}/run").folder)
            found.setdefault(name, []).append(row)
            print(f"{name}, seed {seed}: {row['val_accuracy']:.1%}", flush=True)
    rows = [(name, *figures(of_it), str(len(of_it))) for name, of_it in found.items()]
    report(f"{STUDENT} on photographs, {options.epochs} epochs", ("", *METRICS, "seeds"), rows)
    print(json.dumps({"options": {**common, "data": "imagenette"}, "found": found, "made_on": environment()}))


def labels_alone(common: dict[str, Any], _: Path, seed: int, out: str) -> Run:
    """Train the student by the labels."""
    return angularkd.train(**common, model=STUDENT, seed=seed, out=out)


def distilled(common: dict[str, Any], teacher: Path, seed: int, out: str) -> Run:
    """Distil the teacher into the student by the default objective."""
    return angularkd.distill(**common, teacher=teacher, student=STUDENT, seed=seed, out=out)


def last_epoch(folder: Path) -> dict[str, float]:
    """Return the last epoch's figures on the validation images."""
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: row[name] for name in METRICS}


def figures(rows: list[dict[str, float]]) -> list[str]:
    """Return each metric's mean and spread as text."""
    return [mean_and_spread([row[name] for row in rows], percent=name != "val_nll") for name in METRICS]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("shared"), help="of data")
    parser.add_argument("--work", type=Path, help="for the teacher, that it serves the next call too")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
