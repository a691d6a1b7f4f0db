"""Damaged data files: each opens or is refused in one line, in bounded time and memory, and raises nothing else.

150 files by default, 2,000 where ANGULARKD_SOAK=1; damage depends on the number of a file alone. All are read in a process of
their own (this file as a script), which no hang and no crash outlives.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from angularkd.data import decode, open_data
from angularkd.data.scaled import read_scaled
from angularkd.data.sources.folders import FileStore
from angularkd.errors import InputError

FILES = 2_000 if os.environ.get("ANGULARKD_SOAK") == "1" else 150
CPU_SECONDS = 30.0
"""What one file may take; a file that is whole takes a hundredth of one."""
PIXELS = 2**24
"""The limit of pixels here, so that the largest image that is decoded takes a tenth of what it may take elsewhere."""
MEMORY_BYTES = 20 * PIXELS + 2**28
"""What one file may take: five copies of its pixels, of four bytes each, while it is converted, and what libraries take."""
HANG_SECONDS = 3_000

# Whole files


def picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    y, x = np.mgrid[:40, :56]
    pixels = np.stack([4 * x, 6 * y, (x * y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as shard:
        for number in range(6):
            for name, data in ((f"{number}.png", picture("PNG")), (f"{number}.cls", str(number % 2).encode())):
                member = tarfile.TarInfo(
                    name if number < 3 else "long/" * 30 + name
                )  # the long ones have headers of their own
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def parquet() -> bytes:
    rows = [{"bytes": picture("PNG"), "path": f"{number}.png"} for number in range(8)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(rows, kind), "label": [number % 2 for number in range(8)]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=4)
    return buffer.getvalue()


def exif() -> Image.Exif:
    values = Image.Exif()
    values[0x0112], values[0x010E] = 6, "a picture"
    return values


WHOLE: dict[str, Callable[[], bytes]] = {
    "tar": tar,
    "parquet": parquet,
    "png": lambda: picture("PNG", exif=exif()),
    "palette": lambda: picture("PNG", "P", transparency=3),
    "jpeg": lambda: picture("JPEG", exif=exif()),
    "progressive": lambda: picture("JPEG", "CMYK", progressive=True),
    "webp": lambda: picture("WEBP"),
    "lossless": lambda: picture("WEBP", "RGBA", lossless=True, exif=exif()),
    "gif": lambda: picture("GIF", save_all=True, append_images=[Image.new("RGB", (56, 40))]),
    "bmp": lambda: picture("BMP"),
    "tiff": lambda: picture("TIFF", compression="tiff_lzw"),
    "plain tiff": lambda: picture("TIFF", "I;16", exif=exif()),
    "ppm": lambda: picture("PPM"),
}
SUFFIXES = {"tar": ".tar", "parquet": ".parquet"}

# Damage


def flipped(data: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(0, len(data), random.integers(1, 20)):
        data[place] ^= 1 << int(random.integers(8))


def flipped_at_the_start(data: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(0, min(len(data), 120), random.integers(1, 6)):
        data[place] = int(random.integers(256))


def truncated(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(len(data))) :]


def overwritten(data: bytearray, random: np.random.Generator) -> None:
    start, length = int(random.integers(len(data))), int(random.integers(1, 600))
    byte = random.choice([0x00, 0xFF, 0x80, 0x7F, 0x39])
    data[start : start + length] = bytes([byte]) * len(data[start : start + length])


def with_large_numbers(data: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(0, len(data), 4):
        data[place : place + 4] = b"\xff\xff\xff\x7f" if random.integers(2) else b"\x00\x00\xff\xff"


def repeated(data: bytearray, random: np.random.Generator) -> None:
    start, length = int(random.integers(len(data))), int(random.integers(1, 1200))
    data[start:start] = data[start : start + length] * int(random.integers(1, 5))


def damaged_at_the_end(data: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(max(0, len(data) - 900), len(data), random.integers(1, 6)):
        data[place] = int(random.integers(256))


DAMAGES = (
    flipped, flipped_at_the_start, truncated, overwritten, with_large_numbers, repeated, damaged_at_the_end,
)  # fmt: skip


def damaged(number: int) -> tuple[str, str, bytes]:
    """Return kind, damage and content of a file, which are the same for every number in every process."""
    kind = list(WHOLE)[number % len(WHOLE)]
    damage = DAMAGES[number // len(WHOLE) % len(DAMAGES)]
    data = bytearray(WHOLE[kind]())
    damage(data, np.random.default_rng(number))
    return kind, damage.__name__, bytes(data)


# Reading

USES: tuple[Callable[[Any, int], object], ...] = (
    lambda store, row: store.image(row),
    lambda store, row: store.size(row),
    lambda store, row: read_scaled(store, row, (8, 8), np.array([2, 2, 3, 3])),
)


def read(kind: str, data: bytes, folder: Path) -> None:
    """Open a file as its kind of data, and decode all of its images. Raises what none of the readers should."""
    path = folder / f"train{SUFFIXES.get(kind, '.png')}"
    path.write_bytes(data)
    if kind in SUFFIXES:
        try:
            splits = open_data(f"{'shards' if kind == 'tar' else kind}:{folder}").splits.values()
        except InputError as error:
            refused(error)
            return
        rows = [(split.store, int(row)) for split in splits for row in split.rows]
    else:
        rows = [(FileStore([path]), 0)]
    for store, row in rows:
        for use in USES:
            try:
                use(store, row)
            except InputError as error:
                refused(error)


def refused(error: InputError) -> None:
    message = str(error)
    assert "MemoryError" not in message and len(message.splitlines()) == 1, message


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_all(numbers: range) -> None:
    """Read files, and print before each what it is, and behind it what was wrong."""
    warnings.simplefilter("error")
    decode.MAX_PIXELS = PIXELS
    with tempfile.TemporaryDirectory() as scratch:
        for kind, make in WHOLE.items():  # what the libraries take in any case
            folder = Path(scratch) / kind
            folder.mkdir()
            read(kind, make(), folder)
        before = peak_bytes()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, in whatever library it hangs
        for number in numbers:
            kind, damage, data = damaged(number)
            print(f"file {number}, {kind}, {damage}", flush=True)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            try:
                read(kind, data, Path(scratch) / kind)
            except Exception as error:
                print(f"  FAILED: {type(error).__name__}: {error}")
            signal.setitimer(signal.ITIMER_PROF, 0)
            if peak_bytes() - before > MEMORY_BYTES:
                print(f"  FAILED: it took {(peak_bytes() - before) / 2**20:.0f} MiB")
                before = peak_bytes()
    print("done")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of time and memory as on Linux")
def test_damaged_data_files_are_refused_or_read() -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(FILES)], capture_output=True, text=True, errors="replace", timeout=HANG_SECONDS
    )
    lines = done.stdout.splitlines()
    failures = [f"{before}: {line.strip()}" for before, line in pairwise(lines) if "FAILED" in line]
    assert not failures, "\n".join(failures)
    assert done.returncode == 0 and lines[-1] == "done", (
        f"ended with {done.returncode} at {lines[-1:]}: {done.stderr[-800:]}"
    )


if __name__ == "__main__":
    first, last = (int(sys.argv[2]), int(sys.argv[1])) if len(sys.argv) > 2 else (0, int(sys.argv[1]))
    read_all(range(first, last))
