"""Train the same small runs with two checkouts of this repository and compare their students bit for bit.

    python benchmarks/same_weights.py BEFORE AFTER [--only CASE ...]

BEFORE and AFTER are folders of checkouts. Each case is a command line that runs once with each, on the CPU, with one thread and the
embedded digits; a table says of each whether the students' weights are equal in every bit and, if not, by how much they
differ. A move of code leaves all of them equal. Exits with 1 where one differs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file

SMALL = [
    "digits",
    "--image-size",
    "8",
    "--batch-size",
    "64",
    "--schedule",
    "onecycle",
    "--lr",
    "0.05",
    "--device",
    "cpu",
]
TEACHER = ["train", *SMALL, "--model", "cifar/wrn_16_1", "--epochs", "3"]
DISTILL = ["distill", *SMALL, "--teacher", "TEACHER", "--student", "cifar/resnet8", "--epochs", "2"]
KD_AMD = ["--loss", "ce=0.1", "--loss", "kd=0.9,temperature=4", "--loss", "amd=10"]
RECIPES: dict[str, list[str]] = {
    "train": ["train", *SMALL, "--model", "cifar/resnet8", "--epochs", "2", "--augment", "crop"],
    "train, adamw, label smoothing, clipped": [
        "train", *SMALL, "--model", "cifar/vgg8", "--image-size", "16", "--epochs", "1", "--optimizer", "adamw",
        "--label-smoothing", "0.1", "--clip-norm", "1",
    ],
    "distill, default losses": DISTILL,
    "distill, KD and AMD": [*DISTILL, *KD_AMD],
    "distill, cached": [*DISTILL, *KD_AMD, "--augment", "flip", "--cache", "CACHE"],
    "distill, cached again": [*DISTILL, *KD_AMD, "--augment", "flip", "--cache", "CACHE", "--seed", "0"],
    "distill, workers": [*DISTILL, *KD_AMD, "--loader", "workers", "--workers", "2", "--augment", "crop", "flip"],
    "distill, workers, resized crop": [
        *DISTILL, *KD_AMD, "--loader", "workers", "--workers", "2", "--augment", "resized_crop",
    ],
    "distill, moving average": [*DISTILL, *KD_AMD, "--ema", "0.99"],
    "distill, AMD grid 2, VID, CRD": [
        *DISTILL, "--pairs", "block1:layer1,block2:layer2", "--loss", "ce=1", "--loss", "amd=10,grid=2",
        "--loss", "vid=0.1", "--loss", "crd=0.1,num_negatives=64",
    ],
    "distill, Grad-CAM and embeddings": [
        *DISTILL, "--loss", "ce=1", "--loss", "amd=10,attention=gradcam", "--loss", "pkt=10", "--loss", "rkd=1",
    ],
    "distill, mixup": [*DISTILL, *KD_AMD, "--mixup", "0.2", "--cutmix", "1"],
    "distill, teacher fitted": [*DISTILL, *KD_AMD, "--teacher-train", "1", "--teacher-train-what", "all"],
    "distill, killed and resumed": [*DISTILL, *KD_AMD, "--epochs", "8"],
}  # fmt: skip


def run(checkout: Path, arguments: list[str], folder: Path, kill: bool = False) -> None:
    """Run `angularkd` of a checkout; with `kill`, kill it after its first epoch and resume it."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "angularkd", *arguments]
    if kill:
        with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL) as process:
            rows = Path(arguments[-1]) / "metrics.jsonl"
            while process.poll() is None and not rows.exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        command.append("--resume")
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(command)}\n{done.stderr[-2000:]}")


def students(checkout: Path, folder: Path, cases: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Train the cases and return the student's weights of each."""
    run(checkout, [*TEACHER, "--out", str(folder / "teacher")], folder)
    names = {"TEACHER": str(folder / "teacher"), "CACHE": str(folder / "cache")}
    found = {}
    for number, case in enumerate(cases):
        out = folder / f"run{number}"
        arguments = [names.get(argument, argument) for argument in RECIPES[case]]
        run(checkout, [*arguments, "--out", str(out)], folder, kill="killed" in case)
        found[case] = load_file(out / "student.safetensors")
    return found


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str:
    """Say how two students differ."""
    if first.keys() != second.keys():
        return f"other names: {sorted(first.keys() ^ second.keys())[:4]}"
    if all(torch.equal(first[name], second[name]) for name in first):
        return "equal"
    worst = max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
    return f"DIFFERS by up to {worst:.2e}"


def main() -> None:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="CASE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as both:
        folders = [Path(temporary) / name for name in ("before", "after")]
        for folder in folders:
            folder.mkdir()
        checkouts = [options.before.resolve(), options.after.resolve()]
        found = list(both.map(students, checkouts, folders, [options.only] * 2))
    verdicts = {case: difference(found[0][case], found[1][case]) for case in options.only}
    for case, verdict in verdicts.items():
        print(f"{case:<42} {verdict}")
    raise SystemExit(any(verdict != "equal" for verdict in verdicts.values()))


if __name__ == "__main__":
    main()
