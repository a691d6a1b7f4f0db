"""How near exported files come to PyTorch on 1,000 real images, and what 8 bits cost.

    python benchmarks/export_parity.py --folder FOLDER [--images 1000] [--cases cifar photographs] [--int8] [--json-file FILE]

FOLDER holds data/cifar10 (parquet), data/imagenette_224_subset.tar and weights/ (safetensors of networks trained on CIFAR-10 and on
ImageNet, with their preprocessing in JSON beside them). Of each network a run's folder is made, as `angularkd train` leaves one, and
exported as ONNX, for torch.export and for OpenVINO, as `angularkd export` does. Each file is then opened by `angularkd.load`, and its
probabilities compared with those of the run itself, image by image: the first class of all must be the same, ties or not, and no
probability may differ by more than 1e-4; otherwise the last line says so and the exit code is 1. With --int8 the CIFAR-10 network is also
exported with --int8, and checked on every test image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

import angularkd
from angularkd.commands.export import run_export
from angularkd.config import ExportConfig
from angularkd.data import open_data
from angularkd.exporting import FORMATS, shown_time
from angularkd.exporting.checks import time_all
from angularkd.inference import image_files
from angularkd.models import open_classifier, save_weights
from angularkd.runs import RunFolder, StudentMetadata
from angularkd.system.files import write_text
from angularkd.system.modes import one_thread
from defaults import photographs
from measuring import environment, report, write

ALLOWED = 1e-4
"""Largest difference of a probability in float32."""
ENGINES = {"onnx": "ONNX", "torch-export": "torch.export", "openvino": "OpenVINO"}
"""Formats that a library runs by itself, and what the table calls them."""


@dataclass(frozen=True)
class Case:
    """A network with trained weights, and the images that it is asked about.

    Attributes:
        model: its SPEC.
        weights: the name of their file.
        size_px: of its images, which are squares.
        splits: which of the data's images are taken.
        whole_imagenet: whether it tells apart the 1,000 classes of ImageNet, of which the data has some.
    """

    model: str
    weights: str
    size_px: int
    splits: tuple[str, ...] = ("test",)
    whole_imagenet: bool = False


CASES = {
    "cifar": Case("cifar/resnet20", "cifar10_resnet20_akamaster.safetensors", 32),
    "photographs": Case(
        "torchvision/mobilenet_v2",
        "imagenet_mobilenet_v2_coral.safetensors",
        224,
        splits=("train", "val", "test"),
        whole_imagenet=True,
    ),
}


@dataclass(frozen=True)
class Agreement:
    """How one engine's probabilities compare with those of PyTorch.

    Attributes:
        images: how many were compared.
        same_class: of how many the most probable class is the same.
        difference: the largest of a probability.
        accuracy: on these images.
    """

    images: int
    same_class: int
    difference: float
    accuracy: float

    @property
    def holds(self) -> bool:
        """Return whether the engine gives what PyTorch does."""
        return self.same_class == self.images and self.difference <= ALLOWED


def main() -> None:
    """Compare what the command line asks for, and print a table for each network."""
    options = parse()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="angularkd-parity-") as place:
        for name in options.cases:
            work, case = Path(place) / name, CASES[name]
            data = source(name, options.folder, Path(place))
            run = made_run(case, options.folder / "weights" / case.weights, data, work / "run")
            files, classes = written_images(case, data, options.images, work / "images")
            results[name] = compared(run, files, torch.tensor(classes), case)
            if options.int8 and not case.whole_imagenet:
                asked = ExportConfig.from_options(run=run, int8=True, out=work / "int8")
                run_export(asked, Console(width=80))
    write(options.json_file, {"engines": results, "made_on": environment()})
    apart = [
        f"{name}: {engine}" for name, found in results.items() for engine, row in found.items() if not row["holds"]
    ]
    print("not the same: " + ", ".join(apart) if apart else "every engine gives what PyTorch gives")
    sys.exit(bool(apart))


def source(name: str, folder: Path, work: Path) -> str:
    """Return the DATA of a case."""
    data = f"parquet:{folder / 'data/cifar10'}" if name == "cifar" else photographs(folder, work / "data")
    if data is None:
        raise SystemExit(f"there are no photographs in {folder / 'data'}: name its folder with --folder")
    return data


def made_run(case: Case, weights: Path, data: str, folder: Path) -> Path:
    """Make the folder of a run of trained weights, as far as it is needed to export them."""
    classes = imagenet_synsets() if case.whole_imagenet else list(open_data(data).classes)
    student = open_classifier(case.model, len(classes), weights=str(weights))
    assert student.preprocessing is not None
    described = StudentMetadata(
        model=case.model,
        classes=classes,
        image_size=[case.size_px] * 2,
        mean=list(student.preprocessing.mean),
        std=list(student.preprocessing.std),
        input_size=None,
        torch=torch.__version__,
    )
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    save_weights(run.student, student.module, described.as_dict())
    write_text(run.config, f"data: {data}\n")
    return folder


def imagenet_synsets() -> list[str]:
    """Return the classes of ImageNet-1k in the order of networks that tell them apart."""
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def written_images(case: Case, data: str, count: int, folder: Path) -> tuple[list[str], list[int]]:
    """Write images, spread evenly over the data, as PNG files, and return their names and the network's index of their classes."""
    dataset = open_data(data)
    known = imagenet_synsets() if case.whole_imagenet else list(dataset.classes)
    index = [known.index(name) for name in dataset.classes]
    rows = [(split, row) for split in case.splits for row in range(len(dataset.splits[split]))]
    folder.mkdir(parents=True)
    classes = []
    for number, position in enumerate(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)):
        split, row = rows[position]
        pixels, label = dataset.splits[split][row]
        Image.fromarray(pixels).save(folder / f"{number:05d}.png", compress_level=1)
        classes.append(index[label])
    return image_files([folder]), classes


def compared(run: Path, files: Sequence[str], classes: torch.Tensor, case: Case) -> dict[str, Any]:
    """Export a run in every format that an engine runs, compare and time them all, and print the table."""
    outs = {form: run / "exports" / form for form in ENGINES}
    for form, out in outs.items():
        run_export(ExportConfig.from_options(run=run, format=form, out=out, check_images=(files[0],)))
    with one_thread():
        opened = {
            "eager": angularkd.load(run, device="cpu"),
            **{form: angularkd.load(out) for form, out in outs.items()},
        }
        times = time_all({name: classifier.outputs for name, classifier in opened.items()}, (case.size_px,) * 2)
        found = {name: classifier.probabilities(files) for name, classifier in opened.items()}
    result, rows = {}, []
    sizes = {"eager": RunFolder(run).student, **{form: outs[form] / FORMATS[form].file for form in ENGINES}}
    for name, probabilities in found.items():
        agreement = agreeing(found["eager"], probabilities, classes)
        size = sum(part.stat().st_size for part in (sizes[name], sizes[name].with_suffix(".bin")) if part.is_file())
        result[name] = {**asdict(agreement), "holds": agreement.holds, "bytes": size, "milliseconds": times[name]}
        same = f"{agreement.same_class:,}" if name != "eager" else ""
        apart = f"{agreement.difference:.1e}" if name != "eager" else ""
        shown = (shown_time(measured) for measured in times[name].values())
        label = {"eager": "PyTorch", **ENGINES}[name]
        rows.append((label, f"{size / 2**20:.2f}", f"{agreement.accuracy:.1%}", same, apart, *shown))
    columns = ("", "MiB", "correct", "same", "apart", "ms, 1", "ms, 32")
    legend = "same: images with PyTorch's first class; apart: largest difference of a probability; ms: for 1 and 32 images, one thread"
    report(f"{case.model}, {len(files):,} images of {case.size_px} px", columns, rows, [legend])
    return result


def agreeing(original: torch.Tensor, other: torch.Tensor, classes: torch.Tensor) -> Agreement:
    """Compare probabilities [images, classes] of two engines, and count the right classes of the second."""
    first = other.argmax(dim=1)
    return Agreement(
        images=len(original),
        same_class=int((original.argmax(dim=1) == first).sum()),
        difference=(original - other).abs().max().item(),
        accuracy=(first == classes).double().mean().item(),
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("shared"), help="of data and weights")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
