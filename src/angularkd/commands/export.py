"""The export command: a run's student as a file for other programs, which is checked before it is put in place."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from angularkd.config import EvaluateConfig, ExportConfig
from angularkd.errors import InputError
from angularkd.exporting import FORMATS, Deployable, Export, Images, model_card, prove, shown_time
from angularkd.inference import Signature, as_images, image_files, open_student
from angularkd.models import Classifier, read_metadata
from angularkd.runs import RunFolder
from angularkd.system.files import check_writable
from angularkd.training import Evaluation, build_evaluation, open_dataset

CALIBRATION_IMAGES = 512
BATCH = 32
DATA_OPTIONS = ("image_size", "val_fraction", "split_seed", "on_bad_image")
"""Options of a run that say which its images are, beside `data`."""
ROWS = {"original": "PyTorch", "exported": "exported", "int8": "int8"}


def export(run: str | Path, **options: Any) -> dict[str, Any]:
    """Write a run's student as a file that other programs run, once it has given what the student gives.

    Args:
        run: the run's folder.
        options: the other fields of `angularkd.config.ExportConfig`, which are the flags of `angularkd export`.

    Returns:
        What export.json holds: the file's signature, where it comes from, and what was measured; `folder` is where it lies.

    Raises:
        InputError: when something that was given cannot be used, or the file does not give what the student gives.
    """
    return run_export(ExportConfig.from_options(run=run, **options))


def run_export(config: ExportConfig, console: Console | None = None) -> dict[str, Any]:
    """Export what a checked configuration names, and print on the console what the file is worth."""
    folder = RunFolder(Path(config.run))
    if not folder.student.is_file():
        reason = f"holds no {folder.student.name}" if folder.path.is_dir() else "does not exist"
        raise InputError(f"the run {config.run} {reason}: name the folder of a finished run with `run`")
    out = Path(config.out) if config.out is not None else folder.path / "exports" / config.format
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists: remove it, or give another folder with `out`")
    check_writable(out.parent, "out")
    row = FORMATS[config.format]
    student = open_student(folder.student, trust=config.trusted)
    row.check(student)
    data = _data(config, folder) if config.int8 or not config.check_images else None
    assert student.classes is not None and student.image_size is not None, "open_student has seen to it"
    signature = Signature(
        classes=student.classes,
        image_size=student.image_size,
        dtype="uint8" if config.include_preprocessing else "float32",
        layout=config.layout or ("nhwc" if config.include_preprocessing else "nchw"),
        output="probabilities" if config.include_preprocessing else "logits",
        temperature=student.temperature or 1.0,
    )
    report = prove(
        Export(
            network=Deployable(student, signature),
            out=out,
            file=row.file,
            write=row.write,
            metadata={**_metadata(config, folder, student), **signature.model_dump(mode="json")},
            original_bytes=folder.student.stat().st_size,
            images=_given(config, student) if config.check_images or data is None else _test(config, data),
            calibration=_calibration(data) if config.int8 and data is not None else None,
            card=model_card,
            trust=config.trusted,
        )
    )
    if console is not None:
        _print(report, out, console)
    return {**report, "folder": str(out)}


def _data(config: ExportConfig, folder: RunFolder) -> Evaluation:
    """Open the run's data as it was for the run, or that which is given in its place."""
    stored = folder.read_config() or {}
    data = config.check_data or stored.get("data")
    remedy = "name DATA with `check_data`, or images with `check_images`"
    if data is None:
        raise InputError(f"{folder.config} does not say the data of the run: {remedy}")
    options = {name: stored[name] for name in DATA_OPTIONS if name in stored}
    asked = EvaluateConfig.from_options(
        data=data, model=str(folder.path), split="test", device="cpu", trust=config.trusted, batch_size=BATCH, **options
    )
    try:
        return build_evaluation(asked, open_dataset(asked))
    except InputError as error:
        raise InputError(f"the data of the run cannot be used ({str(error).rstrip('.')}): {remedy}") from None


def _test(config: ExportConfig, built: Evaluation) -> Images:
    images = len(built.data.dataset.test)
    some = built.data if config.check_most is None else built.data.some("test", config.check_most)
    count = min(images, config.check_most or images)
    return Images(f"{count:,} of {images:,} test images of {built.data.dataset.name}", lambda: _pairs(some, "test"))


def _calibration(built: Evaluation) -> Images:
    some = built.data.some("train", CALIBRATION_IMAGES)
    count = len(some.dataset.train)
    return Images(f"{count:,} training images of {built.data.dataset.name}", lambda: _pairs(some, "train"))


def _pairs(data: Any, split: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    for batch in data.batches(split, BATCH).epoch(0):
        yield batch.images, batch.labels


def _given(config: ExportConfig, student: Classifier) -> Images:
    files = image_files(config.check_images)
    assert student.image_size is not None
    size = student.image_size

    def batches() -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, len(files), BATCH):
            yield as_images(files[start : start + BATCH], size), None

    return Images(f"{len(files):,} given images", batches)


def _metadata(config: ExportConfig, folder: RunFolder, student: Classifier) -> dict[str, Any]:
    """Return what a file says of itself: what its student's own file does, and where it comes from."""
    stored, results = folder.read_config() or {}, folder.read_results()
    losses = stored.get("loss")
    return {
        **read_metadata(folder.student),
        "format": config.format,
        "provenance": {
            "angularkd": version("angularkd"),
            "torch": torch.__version__,
            "run": folder.path.absolute().name,
            "data": str(stored.get("data", "unknown data")),
            "teacher": stored.get("teacher"),
            "objective": ", ".join(f"{name}: {value}" for name, value in losses.items())
            if isinstance(losses, dict)
            else "cross-entropy",
            "teacher_fingerprint": results.get("teacher_fingerprint"),
            "metrics": results.get("metrics", {}),
        },
    }


def _print(report: dict[str, Any], out: Path, console: Console) -> None:
    """Print the figures of all files side by side, within 80 columns."""
    number = {"justify": "right", "overflow": "fold"}
    names = ("MiB", "accuracy", "max diff", "ms, batch 1", "ms, batch 32")
    table = Table("", *(Column(name, **number) for name in names), title=f"checked on {report['checked_on']}")  # type: ignore[arg-type]
    for name, row in report["figures"].items():
        table.add_row(
            ROWS[name],
            f"{row['bytes'] / 2**20:.2f}",
            f"{row['accuracy']:.2%}" if "accuracy" in row else "",
            f"{row['max_difference']:.1e}" if "max_difference" in row else "",
            *(shown_time(part) for part in row["milliseconds"].values()),
        )
    console.print(table)
    console.print(
        f"times on one thread: medians, ± half of the distance between the quartiles\nexport: {out}",
        soft_wrap=True,
        highlight=False,
    )
