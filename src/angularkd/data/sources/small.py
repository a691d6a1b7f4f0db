"""Small data sets whose images are decoded when they are opened: the digits of scikit-learn, and CIFAR."""

from __future__ import annotations

import http.client
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from angularkd.data.splits import Source, draw_stratified, whole
from angularkd.data.stores import ArrayStore
from angularkd.errors import InputError
from angularkd.system.memory import free_memory_bytes

DIGITS_SIZE_PX = 16
DIGITS_LEVELS = 16
DRAWN_BYTES = 24
"""Of a pixel that is drawn, in float64 with copies."""
TEST_SHARE = 0.2
"""Of the digits, which come without a test split."""
PROBE_TIMEOUT_SECONDS = 10.0


def open_digits(argument: str) -> Source:
    """Open the 1,797 handwritten digits inside scikit-learn: 8 x 8 pixels of 16 grey levels, rendered at any size.

    Raises:
        InputError: An argument is given.
    """
    if argument:
        raise InputError(f"digits comes with scikit-learn and takes no folder: write digits, not digits:{argument}.")
    from sklearn.datasets import load_digits

    digits = load_digits()

    def render(size: tuple[int, int]) -> ArrayStore:
        return render_digits(digits.images, size)

    images = whole(render((DIGITS_SIZE_PX, DIGITS_SIZE_PX)), digits.target)
    test, train = draw_stratified(images.labels, TEST_SHARE, 1, "digits test")
    return Source(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        splits={"train": images.select(train), "test": images.select(test)},
        notes=(f"test: {len(test)} of {len(images)} images, stratified, the same whatever the seed",),
        mirrorable=False,
        render=render,
    )


def render_digits(originals: Float64[np.ndarray, "samples 8 8"], size: tuple[int, int]) -> ArrayStore:
    """Enlarge digits of grey levels 0 to 16 bilinearly to (height, width), as RGB of 8 bits a channel.

    Raises:
        InputError: Before anything is allocated, where they would take more than the free memory.
    """
    needed, free = len(originals) * size[0] * size[1] * DRAWN_BYTES, free_memory_bytes()
    if free is not None and needed > free:
        raise InputError(
            f"digits of {size[0]}x{size[1]} pixels take {needed / 2**30:,.1f} GiB while they are drawn, and {free / 2**30:,.1f} GiB "
            "are free: give a smaller `image_size`."
        )
    grey = torch.from_numpy(originals / DIGITS_LEVELS * 255.0)[:, None]
    grey = torch.nn.functional.interpolate(grey, size=size, mode="bilinear", antialias=True, align_corners=False)
    pixels = grey.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
    return ArrayStore("digits", pixels)


def open_cifar(name: str, folder: Path) -> Source:
    """Open CIFAR's python batches through torchvision, which checks their MD5 sums; download them where they are missing.

    Args:
        name: "cifar10" or "cifar100".
        folder: The folder that holds the batches' folder, or that folder itself.

    Raises:
        InputError: The batches are missing or damaged and cannot be downloaded.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if folder.name == kind.base_folder:
        folder = folder.parent
    with warnings.catch_warnings():
        # Pickled by NumPy 1 with integers for booleans, about which NumPy 2.4.0 to 2.4.4 warn (pytorch/vision#9340).
        warnings.filterwarnings("ignore", message=r"dtype\(\): align", category=np.exceptions.VisibleDeprecationWarning)
        try:
            train = kind(folder, train=True)
        except RuntimeError:  # torchvision raises it for batches that are not found or damaged
            _download_cifar(name, kind, folder)
            train = kind(folder, train=True)
        test = kind(folder, train=False)
    splits = {
        split: whole(ArrayStore(f"{name} {split}", part.data), part.targets)
        for split, part in (("train", train), ("test", test))
    }
    return Source(name, tuple(train.classes), splits)


def _download_cifar(name: str, kind: Any, folder: Path) -> None:
    try:
        with urllib.request.urlopen(kind.url, timeout=PROBE_TIMEOUT_SECONDS):
            pass  # torchvision's own download waits without limit where packets are dropped
        kind(folder, train=True, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(
            f"{name}: no intact {kind.base_folder}/ in {folder}, and {kind.url} cannot be fetched ({reason}): get "
            f"{kind.filename} elsewhere and put it, or its unpacked {kind.base_folder}/, into {folder}."
        ) from error
