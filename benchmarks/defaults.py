"""Which objective is a good default: students of many kinds, by several objectives and seeds, judged on validation images.

    python benchmarks/defaults.py --folder FOLDER --results docs/results/defaults.jsonl [--cases NAME ...]
        [--objectives NAME ...] [--seeds 0 1 2]
    python benchmarks/defaults.py --results docs/results/defaults.jsonl --table | --markdown

FOLDER holds what cannot be made here: data/cifar10 (parquet), data/imagenette_224_subset.tar, data/tiny_imagenet100_32px and weights/
(safetensors of networks pretrained on them). Cases whose data is not there are passed over; the digits need nothing. A line of
results is written for every student as it is done, and what is in the file already is not run again, so that the study can be
interrupted and gone on with. Test images are not looked at: figures are of the last epoch's student on the validation images.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import angularkd
from angularkd.data import open_data
from angularkd.studies import difference
from measuring import environment, report
from subset import write_first

CE, KD = {"ce": 1.0}, {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}}


def amd(share: float | None = None, **options: Any) -> dict[str, Any]:
    """Return AMD with a share of the first gradient."""
    return {"amd": {"weight": "auto", **({} if share is None else {"share": share}), **options}}


CENTERED = {"centered": True}
BALANCED = {"centered": True, "stage_weights": "balanced"}
FIXED = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Weights of AMD that are the same for every case: what a weight that is found for each is to be as good as the best of."""
OBJECTIVES: dict[str, dict[str, Any] | None] = {
    "scratch": None,
    "ce+kd": KD,
    "ce+kd+amd 5000": {**KD, "amd": 5000.0},
    "ce+at 0.9": {**CE, "at": {"weight": "auto", "share": 0.9}},
    "ce+amd 0.5": {**CE, **amd(0.5)},
    "ce+amd 0.9": {**CE, **amd(0.9)},
    "ce+kd+amd 0.5": {**KD, **amd(0.5)},
    "ce+centred 0.5": {**CE, **amd(0.5, **CENTERED)},
    "ce+centred 0.9": {**CE, **amd(0.9, **CENTERED)},
    "ce+centred 0.97": {**CE, **amd(0.97, **CENTERED)},
    "ce+centred 0.9 falling": {**CE, **amd(0.9, decay_to=0.0, **CENTERED)},
    "ce+balanced 0.5": {**CE, **amd(0.5, **BALANCED)},
    "ce+balanced 0.9": {**CE, **amd(0.9, **BALANCED)},
    "ce+balanced 0.97": {**CE, **amd(0.97, **BALANCED)},
    "ce+balanced 0.9 falling": {**CE, **amd(0.9, decay_to=0.0, **BALANCED)},
    "ce+kd+centred 0.9": {**KD, **amd(0.9, **CENTERED)},
    "ce+kd+balanced 0.5": {**KD, **amd(0.5, **BALANCED)},
    "ce+kd+balanced 0.7": {**KD, **amd(0.7, **BALANCED)},
    "ce+kd+balanced 0.9": {**KD, **amd(0.9, **BALANCED)},
    "ce+kd+balanced 0.9 falling": {**KD, **amd(0.9, decay_to=0.0, **BALANCED)},
    **{f"ce+kd+balanced ={weight:g}": {**KD, "amd": {"weight": weight, **BALANCED}} for weight in FIXED},
}
"""The candidates: a student from scratch, and what stands for a default."""


@dataclass(frozen=True)
class Case:
    """A teacher, a student and their images.

    Attributes:
        data: writes the images into a folder, from the folder of data, and returns the DATA spec; None where they are not there.
        student: its SPEC.
        recipe: options of train and distill alike.
        teacher: options of `distill` that name the teacher, from the folder of data; or, of a teacher that is trained here, its SPEC.
        teacher_recipe: options of that training, beside the recipe.
        fitted: whether a named teacher is fitted to the data first, with a new head.
    """

    data: Callable[[Path, Path], str | None]
    student: str
    recipe: dict[str, Any]
    teacher: str | Callable[[Path], dict[str, Any]]
    teacher_recipe: dict[str, Any] = field(default_factory=dict)
    fitted: bool = False


def digits(_: Path, __: Path) -> str:
    """Return the embedded digits."""
    return "digits"


def cifar(images: int) -> Callable[[Path, Path], str | None]:
    """Return what cuts the first images of CIFAR-10, with 2,000 others for validation."""

    def write(source: Path, folder: Path) -> str | None:
        if not (source / "data/cifar10").is_dir():
            return None
        if not folder.exists():
            write_first(open_data(f"parquet:{source / 'data/cifar10'}"), images, folder, beside=2000)
        return f"parquet:{folder}"

    return write


def tiny_imagenet(images: int) -> Callable[[Path, Path], str | None]:
    """Return what cuts the first images of 100 classes of Tiny-ImageNet, with 2,000 others for validation."""

    def write(source: Path, folder: Path) -> str | None:
        if not (source / "data/tiny_imagenet100_32px").is_dir():
            return None
        if not folder.exists():
            write_first(open_data(f"parquet:{source / 'data/tiny_imagenet100_32px'}"), images, folder, beside=2000)
        return f"parquet:{folder}"

    return write


def photographs(source: Path, folder: Path) -> str | None:
    """Return Imagenette's photographs, class folders unpacked."""
    archive = source / "data/imagenette_224_subset.tar"
    if not archive.is_file():
        return None
    if not folder.exists():
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return str(folder / "imagenette")


def pretrained(name: str, file: str, normalization: str = "imagenet") -> Callable[[Path], dict[str, Any]]:
    """Return what names a teacher with weights from the folder of data."""
    return lambda source: {
        "teacher": name,
        "teacher_weights": str(source / "weights" / file),
        "teacher_normalization": normalization,
    }


RESNET56 = pretrained("cifar/resnet56", "cifar10_resnet56_akamaster.safetensors")
MOBILENET = pretrained("torchvision/mobilenet_v2", "imagenet_mobilenet_v2_coral.safetensors", "half")
OWN_FILE = Path(__file__).resolve().parents[1] / "examples/custom_model.py"
ONE_CYCLE = {"schedule": "onecycle", "batch_size": 64, "device": "cpu"}
DIGITS = {**ONE_CYCLE, "val_fraction": 0.3, "epochs": 20, "lr": 0.05}
LARGE_DIGITS = {**DIGITS, "image_size": 32, "epochs": 6}
CIFAR = {**ONE_CYCLE, "augment": ("flip",), "epochs": 20}
PHOTOGRAPHS = {**ONE_CYCLE, "val_fraction": 0.3, "batch_size": 32, "epochs": 12, "lr": 0.02, "augment": ("flip",)}
TRANSFORMER = {"optimizer": "adamw", "lr": 1e-3}
CONVOLUTIONAL = {"optimizer": "sgd", "lr": 0.05, "epochs": 8}
SMALL_VIT = f"{Path(__file__).resolve().parent / 'small_vit.py'}:small_vit"
CASES: dict[str, Case] = {
    "digits 8 px, WRN-16-2 -> ResNet-8": Case(digits, "cifar/resnet8", {**DIGITS, "image_size": 8}, "cifar/wrn_16_2"),
    "digits 32 px, 6 epochs, WRN-16-2 -> ResNet-8": Case(digits, "cifar/resnet8", LARGE_DIGITS, "cifar/wrn_16_2"),
    "CIFAR-10, 2,000, ResNet-56 -> ResNet-8": Case(cifar(2000), "cifar/resnet8", CIFAR, RESNET56),
    "CIFAR-10, 2,000, ResNet-56 -> WRN-16-1": Case(cifar(2000), "cifar/wrn_16_1", CIFAR, RESNET56),
    "CIFAR-10, 5,000, ResNet-56 -> WRN-16-1": Case(cifar(5000), "cifar/wrn_16_1", {**CIFAR, "epochs": 8}, RESNET56),
    "CIFAR-10, 40,000, ResNet-56 -> ResNet-8": Case(
        cifar(40000), "cifar/resnet8", {**CIFAR, "epochs": 2, "batch_size": 128}, RESNET56
    ),
    "Tiny-ImageNet-100, 10,000, WRN-16-2 -> ResNet-8": Case(
        tiny_imagenet(10000), "cifar/resnet8", {**CIFAR, "epochs": 6}, "cifar/wrn_16_2", {"epochs": 10}
    ),
    "a file of one's own, digits 8 px": Case(
        digits, f"{OWN_FILE}:SmallNet", {**DIGITS, "image_size": 8}, "cifar/resnet20"
    ),
    "photographs 64 px, MobileNetV2 fitted -> ResNet-10-t": Case(
        photographs,
        "timm/resnet10t",
        {**PHOTOGRAPHS, "image_size": 64},
        MOBILENET,
        {"epochs": 6, "optimizer": "adamw", "lr": 5e-4},
        fitted=True,
    ),
    "photographs 96 px, MobileNetV2 mapped -> ResNet-8": Case(
        photographs, "cifar/resnet8", {**PHOTOGRAPHS, "image_size": 96}, MOBILENET
    ),
    "digits 32 px, 20 epochs, WRN-16-2 -> ResNet-8": Case(
        digits, "cifar/resnet8", {**LARGE_DIGITS, "epochs": 20}, "cifar/wrn_16_2"
    ),
    "digits 32 px, 10 epochs, ResNet-20 -> ViT": Case(
        digits, SMALL_VIT, {**LARGE_DIGITS, **TRANSFORMER, "epochs": 10}, "cifar/resnet20", CONVOLUTIONAL
    ),
    "digits 32 px, 30 epochs, ResNet-20 -> ViT": Case(
        digits, SMALL_VIT, {**LARGE_DIGITS, **TRANSFORMER, "epochs": 30}, "cifar/resnet20", CONVOLUTIONAL
    ),
    "digits 32 px, 6 epochs, weak ViT -> ResNet-8": Case(
        digits, "cifar/resnet8", LARGE_DIGITS, SMALL_VIT, {**TRANSFORMER, "epochs": 20}
    ),
    "digits 32 px, 20 epochs, ViT -> ResNet-8": Case(
        digits, "cifar/resnet8", {**LARGE_DIGITS, "epochs": 20}, SMALL_VIT, {**TRANSFORMER, "epochs": 80}
    ),
}


def main() -> None:
    """Run what is missing, or print the table."""
    options = parse()
    if options.table or options.markdown:
        (print_table if options.table else print_markdown)(read(options.results))
        return
    done = {(row["case"], row["objective"], row["seed"]) for row in read(options.results)}
    work = options.work or Path(tempfile.mkdtemp(prefix="angularkd-defaults-"))
    work.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.cases:
            for objective in options.objectives:
                if (name, objective, seed) in done:
                    continue
                row = run(name, objective, seed, options.folder, work)
                if row is None:
                    print(f"passed over, its data is not there: {name}")
                    break
                options.results.parent.mkdir(parents=True, exist_ok=True)
                with options.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    f"{name}  {objective}  seed {seed}  {row['val_accuracy']:.2%}  {row['seconds']:.0f} s", flush=True
                )


def run(name: str, objective: str, seed: int, source: Path, work: Path) -> dict[str, Any] | None:
    """Train one student, and return its line of results; None where the data is not there."""
    case = CASES[name]
    place = work / re.sub(r"[^a-z0-9]+", "-", name.lower())
    data = case.data(source, place / "data")
    if data is None:
        return None
    started = time.perf_counter()
    recipe = {**case.recipe, "data": data, "seed": seed, "compile": "never"}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        losses = OBJECTIVES[objective]
        if losses is None:
            done = angularkd.train(**recipe, model=case.student, out=f"{folder}/run")
        else:
            teacher = teacher_of(case, recipe, source, place)
            done = angularkd.distill(**recipe, **teacher, student=case.student, loss=losses, out=f"{folder}/run")
        last = json.loads((done.folder / "metrics.jsonl").read_text().splitlines()[-1])
        plan = done.folder / "plan.json"
        weights = json.loads(plan.read_text())["weights"] if plan.exists() else {}
    figures = {key: last[key] for key in ("val_accuracy", "val_nll", "val_ece")}
    seconds = time.perf_counter() - started
    named = {"case": name, "objective": objective, "seed": seed}
    return {**named, **figures, "weights": weights, "seconds": seconds, "made_on": environment()}


def teacher_of(case: Case, recipe: dict[str, Any], source: Path, place: Path) -> dict[str, Any]:
    """Return the options that name the teacher; one that is trained here is trained once, with seed 100."""
    cache = {"cache": str(place / "cache")} if recipe.get("augment") == ("flip",) else {}
    if not isinstance(case.teacher, str):
        named = case.teacher(source)
        if not case.fitted:
            return {**named, **cache, **mapped(case, source, place)}
    folder = place / "teacher"
    if not (folder / "results.json").exists():
        fitted = {**recipe, "seed": 100, **case.teacher_recipe}
        if isinstance(case.teacher, str):
            angularkd.train(**fitted, model=case.teacher, out=str(folder))
        else:
            start = {"model": named["teacher"], "weights": named["teacher_weights"], "new_head": True}
            start["normalization"] = named["teacher_normalization"]
            angularkd.train(**fitted, **start, out=str(folder))
    return {"teacher": str(folder), **cache}


def mapped(case: Case, source: Path, place: Path) -> dict[str, Any]:
    """Return the map from ImageNet's classes to those of the photographs, which are named by their WordNet ids."""
    if case.data is not photographs:
        return {}
    about = json.loads((place / "data/imagenette/README.json").read_text())
    (file := place / "classes.json").write_text(json.dumps(about["imagenet_1k_index"]))
    return {"teacher_classes": str(file)}


def read(results: Path) -> list[dict[str, Any]]:
    """Return the lines of results."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print, for each case, every objective's accuracy, its difference to scratch by seed, NLL and ECE."""
    for case in dict.fromkeys(row["case"] for row in rows):
        report(case, ("", "val accuracy", "less scratch", "nll", "ece", "seeds"), list(lines(rows, case)))


def print_markdown(rows: list[dict[str, Any]]) -> None:
    """Print one Markdown table: a row a case, and a column for each objective that most cases have."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    found = {(row["case"], row["objective"]) for row in rows}
    columns = [
        name
        for name in OBJECTIVES
        if name != "scratch" and sum((case, name) in found for case in cases) > len(cases) / 2
    ]
    print(f"| case | seeds | scratch | {' | '.join(columns)} |")
    print(f"|---|---|---|{'---|' * len(columns)}")
    for case in cases:
        scratch = {
            row["seed"]: row["val_accuracy"] for row in rows if (row["case"], row["objective"]) == (case, "scratch")
        }
        cells = [
            paired(
                scratch,
                {row["seed"]: row["val_accuracy"] for row in rows if (row["case"], row["objective"]) == (case, name)},
            )
            for name in columns
        ]
        values = list(scratch.values())
        print(f"| {case} | {len(values)} | {mean_and_spread(values, percent=True)} | {' | '.join(cells)} |")


def paired(scratch: dict[int, float], others: dict[int, float]) -> str:
    """Return the mean of the differences over common seeds, in points, and half of its 95 % interval (Student's t)."""
    found = difference(others, scratch)
    if found is None:
        return ""
    half = f" ± {50 * (found.high - found.low):.1f}" if found.high is not None and found.low is not None else ""
    return f"{100 * found.mean:+.1f}{half}"


def lines(rows: list[dict[str, Any]], case: str) -> Iterator[tuple[str, ...]]:
    """Yield a line for each objective of a case."""
    scratch = {
        row["seed"]: row["val_accuracy"] for row in rows if row["case"] == case and row["objective"] == "scratch"
    }
    for objective in dict.fromkeys(row["objective"] for row in rows if row["case"] == case):
        of_it = [row for row in rows if row["case"] == case and row["objective"] == objective]
        differences = [row["val_accuracy"] - scratch[row["seed"]] for row in of_it if row["seed"] in scratch]
        yield (
            objective,
            mean_and_spread([row["val_accuracy"] for row in of_it], percent=True),
            mean_and_spread(differences, percent=True) if differences else "",
            mean_and_spread([row["val_nll"] for row in of_it]),
            mean_and_spread([row["val_ece"] for row in of_it], percent=True),
            str(len(of_it)),
        )


def mean_and_spread(values: list[float], percent: bool = False) -> str:
    """Return mean and, of several values, sample standard deviation as text."""
    scale, digits = (100, 1) if percent else (1, 3)
    mean = f"{statistics.mean(values) * scale:.{digits}f}"
    return f"{mean} ± {statistics.stdev(values) * scale:.{digits}f}" if len(values) > 1 else mean


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("shared"), help="of data and weights")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="for teachers and caches, that they serve the next call too")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print what the results hold, and run nothing")
    parser.add_argument(
        "--markdown", action="store_true", help="print the paired differences to scratch as one Markdown table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
