"""Fixtures of the data's tests: images on disk, and a look at the processes that are left."""

from __future__ import annotations

import gc
import io
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def png(seed: int, size: tuple[int, int] = (16, 12)) -> bytes:
    """Noise, which takes as much room compressed as it does decoded."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def write_images() -> Callable[..., list[int]]:
    """Writes a parquet file of different images in row groups, and gives the bytes of each image."""

    def write(path: Path, count: int, rows_per_group: int = 4, first: int = 0) -> list[int]:
        images = [png(first + number) for number in range(count)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
        labels = pa.array([number % 2 for number in range(count)], pa.int64())
        pq.write_table(pa.table({"image": pa.array(rows, kind), "label": labels}), path, row_group_size=rows_per_group)
        return [len(image) for image in images]

    return write


@pytest.fixture(scope="session")
def write_photographs() -> Callable[..., list[Path]]:
    """Writes JPEGs of unequal sizes, smooth as photographs are; one channel is brighter than the others."""

    def write(folder: Path, count: int, channel: int = 0) -> list[Path]:
        generator = np.random.default_rng(len(folder.name))
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(count):
            colours = generator.integers(0, 128, (5, 5, 3), dtype=np.uint8)
            colours[..., channel] += 127
            height, width = generator.integers(20, 90, 2)
            large = Image.fromarray(colours).resize((int(width), int(height)), Image.Resampling.BICUBIC)
            paths.append(folder / f"{number:03}.jpg")
            large.save(paths[-1], quality=95)
        return paths

    return write


@pytest.fixture
def wait_until() -> Callable[..., bool]:
    """Says whether something becomes true in time: longer than any process here takes to end on a busy machine."""

    def wait(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        return condition()

    return wait


@pytest.fixture
def no_processes() -> Callable[[], bool]:
    return lambda: not multiprocessing.active_children()


@pytest.fixture
def leaves_no_process(no_processes, wait_until):
    """Fails a test that leaves a process behind."""
    yield
    if not no_processes():
        gc.collect()
    assert wait_until(no_processes)
