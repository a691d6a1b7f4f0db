"""A finished run whose classes have hostile names, with its report, and a browser that opens it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import angularkd
from angularkd.runs import Run

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)<",
    "$x^2$ and $\\frac{1",
    "a name that goes on " * 8 + "and on",
    "שלום עולם",
    '🐈 cat & "dog" \'',
)
"""Names of folders that act, or look like something else, where they are not escaped."""
SMALL: dict[str, Any] = {"image_size": 16, "batch_size": 24, "lr": 0.05, "device": "cpu"}


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small distillation on images whose classes have hostile names, without a report."""
    root = tmp_path_factory.mktemp("hostile")
    colours = np.random.default_rng(0)
    for number, name in enumerate(HOSTILE):
        for split, count in (("train", 20), ("test", 6)):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = colours.integers(0, 90, (16, 16, 3))
                pixels[..., number % 3] += 70 * (1 + number // 3)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    options = {**SMALL, "data": str(root / "data")}
    teacher = angularkd.train(**options, model="cifar/resnet8", epochs=8, out=str(root / "teacher"))
    return angularkd.distill(
        **options, teacher=str(teacher.folder), student="cifar/resnet8", epochs=2, out=str(root / "run")
    )


@pytest.fixture(scope="session")
def hostile_report(hostile_run: Run) -> Path:
    """The report of that run."""
    return angularkd.report(hostile_run.folder, device="cpu")


@pytest.fixture(scope="session")
def hostile_comparison(hostile_run: Run) -> Path:
    """The report of its teacher, of that run and of one of another student, side by side."""
    root = hostile_run.folder.parent
    options = {**SMALL, "data": str(root / "data")}
    teacher = root / "teacher"
    angularkd.distill(**options, teacher=str(teacher), student="cifar/wrn_10_1", epochs=2, out=str(root / "<b>wide"))
    runs = [teacher, hostile_run.folder, root / "<b>wide"]
    return angularkd.report(runs, out=root / "comparison.html", device="cpu")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: the machine's, or that of playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with playwright.sync_playwright() as started:
        if found is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: install one, or run playwright install chromium")
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
