"""Images from strangers: only the formats that are meant, never too many pixels, no pipes, and none of Pillow's warnings."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import angularkd
from angularkd.cli import main
from angularkd.data import decode_image, listing, open_data
from angularkd.data.decode import MAX_BYTES, MAX_PIXELS, PILLOW_SILENT, image_size
from angularkd.data.reading import read_image_file
from angularkd.data.scaled import read_scaled
from angularkd.data.sources.folders import FileStore
from angularkd.errors import InputError

NO_IMAGE = r"not an image in a known format \(JPEG, PNG, WebP, GIF, BMP, TIFF, PPM\); repair the file or remove it\.$"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def webp(kind: bytes, width: int, height: int) -> bytes:
    """The header of a WebP of so many pixels, which a decoder makes room for, and next to nothing behind it."""
    if kind == b"VP8X":
        sides = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        sides = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\x88\x88\x08"
    else:
        sides = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    chunk = kind + struct.pack("<I", len(sides)) + sides
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def png_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (1, 1)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def test_postscript_starts_no_program(monkeypatch):
    def start(*_: object, **__: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(subprocess, "check_call", start)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    for read in (decode_image, image_size):
        with pytest.raises(InputError, match=rf"cannot decode x\.png: {NO_IMAGE}"):
            read(EPS, "x.png")


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "JPEG2000", "PDF"])
def test_formats_that_are_not_meant(kind):
    with pytest.raises(InputError, match=NO_IMAGE):
        decode_image(encoded(Image.new("RGB", (16, 16)), kind), "x.png")


@pytest.mark.parametrize(
    "data",
    [
        webp(b"VP8 ", 16383, 16383),
        webp(b"VP8L", 16383, 16383),
        webp(b"VP8X", 2**24, 2**24),
        webp(b"VP8X", 16383, 16383),
        png_header(30_000, 30_000),
        bmp_header(30_000, 30_000),
        b"P5 30000 30000 255\n",
    ],
    ids=["VP8", "VP8L", "VP8X", "VP8X-16k", "PNG", "BMP", "PPM"],
)
def test_one_limit_of_pixels_for_all_formats(data):
    tracemalloc.start()
    try:
        for read in (decode_image, image_size):
            with pytest.raises(InputError) as refused:
                read(data, "x.png")
            assert f"more than the {MAX_PIXELS:,} pixels that an image may have" in str(refused.value)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_webp_of_a_usual_size_is_left_to_its_decoder():
    assert decode_image(webp(b"VP8L", 200, 100), "x.webp").shape == (100, 200, 3)
    with pytest.raises(InputError) as refused:
        decode_image(webp(b"VP8 ", 200, 100), "x.webp")
    assert "pixels that an image may have" not in str(refused.value)


@pytest.mark.parametrize("limit", [None, 100])
def test_the_limit_is_ours_and_pillows_is_left_alone(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match="pixels that an image may have"):
        decode_image(png_header(30_000, 30_000), "x.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "x.bmp"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match=f"x.bmp: it has {MAX_BYTES + 1:,} bytes, more than the"):
        read_image_file(path, str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="it is no file, but a folder, a pipe or a device"):
            FileStore([path]).image(0)


def test_explain_reads_no_device():
    with pytest.raises(InputError, match="cannot read /dev/zero: it is no file"):
        angularkd.explain(image="/dev/zero", teacher="cifar/resnet8", student="cifar/resnet8")


def test_names_that_act_on_a_terminal_are_printed_escaped(tmp_path, capsys):
    data = tmp_path / "data"
    for name in ("cat/\x1b[31m.png", "dog/\udcff.png"):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_bytes(b"no image")
        (data / name).with_name("1.png").write_bytes(b"no image")
        (data / name).with_name("2.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        main(["train", str(data), "--model", "cifar/resnet8", "--lr", "0.05", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.err + printed.out and "cannot decode" in printed.err
    listing(open_data(str(write(data, grey(65535), "\udcff.png", 3))).train)


def damaged_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description of the image"
    data = encoded(Image.fromarray(np.zeros((40, 60, 3), np.uint8)), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0")
    return data[: start + 20] + b"\xff\x7f" + data[start + 22 :]


def large(_: object = None) -> bytes:
    return encoded(Image.new("1", (400, 400)), "PNG")


def palette() -> bytes:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 40, 50, 60])
    return encoded(image, "PNG", transparency=b"\x80\xff")


@pytest.mark.parametrize("make", [damaged_exif, large, palette])
def test_pillow_warns_of_nothing(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    (tmp_path / "x.png").write_bytes(make())
    store = FileStore([tmp_path / "x.png"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.image(0)
        store.size(0)
        read_scaled(store, 0, (8, 8), np.array([1, 1, 4, 4]))
    assert caught == []


def test_filters_of_warnings_are_restored_after_several_threads():
    before = list(warnings.filters)
    inside, leave = threading.Barrier(3), threading.Event()

    def hold() -> None:
        with PILLOW_SILENT:
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    with PILLOW_SILENT:
        pass
    assert warnings.filters != before
    leave.set()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def write(folder: Path, image: Image.Image, suffix: str = ".png", count: int = 9) -> str:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image.save(folder / name / f"{index}{suffix}")
    return str(folder)


def grey(highest: int, dtype: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.linspace(0, highest, 64).reshape(8, 8).astype(dtype))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_eight_bits_in_sixteen_are_refused_and_twelve_noted(tmp_path, suffix):
    with pytest.raises(
        InputError, match=r"16-bit images of train, val, test hold values up to 255 of 65535, .* would be black"
    ):
        open_data(write(tmp_path / "eight", grey(255), suffix))
    notes = open_data(write(tmp_path / "twelve", grey(4095), suffix)).notes
    assert any(
        note.startswith("train, val, test: 16-bit images reach 4095 of 65535 in the 14 that were read")
        and "16 of 256 levels are left: where they hold fewer bits, multiply them first" in note
        for note in notes
    )
    assert not any("16-bit" in note for note in open_data(write(tmp_path / "full", grey(65535), suffix)).notes)


def test_thirty_two_bits_are_refused_when_they_are_read(tmp_path):
    data = open_data(write(tmp_path, grey(255, np.int32), ".tif"))
    assert not any("16-bit" in note for note in data.notes)
    with pytest.raises(InputError, match="its pixels are 32-bit integers"):
        data.train[0]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_noted_where_it_is_there(tmp_path, mode):
    clear = Image.new(mode, (8, 8))
    notes = open_data(write(tmp_path / "clear", clear)).notes
    told = f"train, val, test: images have transparency, which is composited on white, as {tmp_path}/clear/cat/"
    assert notes[-1].startswith(told) and len(notes) == 3
    clear.putalpha(255)
    assert "transparency" not in " ".join(open_data(write(tmp_path / "opaque", clear)).notes)


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("1", ".png"), ("CMYK", ".tif"), ("P", ".gif")])
def test_other_channels_become_three_without_a_word(tmp_path, mode, suffix):
    data = open_data(write(tmp_path, Image.new(mode, (8, 8)), suffix))
    assert data.train[0][0].shape == (8, 8, 3) and len(data.notes) == 2
