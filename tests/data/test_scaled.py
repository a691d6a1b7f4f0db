"""The part of an image that a view shows: where it lies in the original, and that a reduced decoding changes little."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from angularkd.data import decode_image, fit, open_data
from angularkd.data.decode import ORIENTATION_TAG
from angularkd.data.scaled import read_scaled, region_of
from angularkd.data.sources.folders import FileStore
from angularkd.data.stores import ArrayStore
from angularkd.errors import InputError


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves as in a photograph: some as short as 16 pixels, so that a shift by one pixel is seen."""
    generator = np.random.default_rng(seed)
    down, right = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    image = np.full((height, width, 3), 128.0)
    for length in (16, 37, 90, 210):
        angle, phase = generator.uniform(0, 2 * np.pi, (2, 3))
        image += 25 * np.sin((down * np.sin(angle) + right * np.cos(angle)) * 2 * np.pi / length + phase)
    return image.clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray | Image.Image, orientation: int | None = None) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION_TAG] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def file_store(path: Path, data: bytes) -> FileStore:
    path.write_bytes(data)
    return FileStore([path])


def box(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int16)


@pytest.fixture
def decoded_sizes(monkeypatch) -> list[tuple[int, int]]:
    """(width, height) of each JPEG when it was decoded at a reduced size."""
    sizes: list[tuple[int, int]] = []
    draft = JpegImageFile.draft

    def spy(self: JpegImageFile, mode, size):
        result = draft(self, mode, size)
        sizes.append(self.size)
        return result

    monkeypatch.setattr(JpegImageFile, "draft", spy)
    return sizes


def triangle_weights(start: float, length: float, shown: int, size: int) -> np.ndarray:
    """[shown, size]: the antialiased bilinear filter, as Pillow's documentation gives it."""
    scale = length / shown
    centres = start + (np.arange(shown)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(size)[None] + 0.5 - centres) / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (41, 33), (17, 60), (32, 32)])
@pytest.mark.parametrize("where", [(3, 5, 20, 11), (0, 0, 32, 24), (30, 20, 2, 4)])
def test_a_box_of_the_fitted_image_is_read_from_the_original(height, width, where) -> None:
    original, image_size = photograph(height, width), (32, 24)
    scale = min(height / 32, width / 24)
    top, left = (height - 32 * scale) / 2 + where[0] * scale, (width - 24 * scale) / 2 + where[1] * scale
    rows = triangle_weights(top, where[2] * scale, 32, height)
    columns = triangle_weights(left, where[3] * scale, 24, width)
    expected = np.einsum("yh,hwc,xw->yxc", rows, original, columns)
    shown = read_scaled(ArrayStore("a", original[None]), 0, image_size, box(*where))
    assert shown.shape == (32, 24, 3)
    assert np.abs(shown - expected).max() <= 1.01  # two roundings to whole levels


@pytest.mark.parametrize(("height", "width"), [(90, 120), (41, 33), (17, 60)])
def test_the_whole_box_is_the_fitted_image(height, width) -> None:
    original = photograph(height, width)
    store = ArrayStore("a", original[None])
    assert np.array_equal(read_scaled(store, 0, (32, 24)), fit(original, (32, 24)))
    assert np.array_equal(read_scaled(store, 0, (32, 24), box(0, 0, 32, 24)), fit(original, (32, 24)))


def test_a_small_box_keeps_detail_that_fitting_first_loses() -> None:
    stripes = np.zeros((1, 256, 256, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    store = ArrayStore("a", stripes)
    assert read_scaled(store, 0, (32, 32)).std() < 2
    assert read_scaled(store, 0, (32, 32), box(8, 8, 4, 4)).std() > 100


@pytest.mark.parametrize(
    ("side", "reduction"), [(32, 8), (31, 4), (16, 4), (15, 2), (8, 2), (7, None), (1, None)]
)  # a box of `side` of 32 pixels has 12 * side / 32 pixels of the original for one shown: 12, 6, 3
def test_a_jpeg_is_decoded_no_finer_and_no_coarser_than_the_box_needs(tmp_path, decoded_sizes, side, reduction) -> None:
    store = file_store(tmp_path / "a.jpg", jpeg(photograph(384, 384)))
    read_scaled(store, 0, (32, 32), box(0, 0, side, side))
    assert decoded_sizes == ([] if reduction is None else [(384 // reduction, 384 // reduction)])


def test_the_axis_with_fewer_pixels_decides(tmp_path, decoded_sizes) -> None:
    store = file_store(tmp_path / "a.jpg", jpeg(photograph(384, 384)))
    read_scaled(store, 0, (32, 32), box(0, 0, 32, 8))
    read_scaled(store, 0, (32, 32), box(0, 0, 8, 32))
    assert decoded_sizes == [(192, 192)] * 2


def test_an_image_without_a_box_is_decoded_whole(tmp_path, decoded_sizes) -> None:
    data = jpeg(photograph(384, 300))
    store = file_store(tmp_path / "a.jpg", data)
    assert np.array_equal(read_scaled(store, 0, (32, 32)), fit(decode_image(data, "a"), (32, 32)))
    assert decoded_sizes == []


@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(("height", "width"), [(301, 403), (307, 302), (299, 400)])
def test_a_reduced_decoding_changes_little_however_the_image_is_turned(
    tmp_path, decoded_sizes, orientation, height, width
) -> None:
    data = jpeg(photograph(height, width), orientation)
    store = file_store(tmp_path / "a.jpg", data)
    whole = ArrayStore("a", decode_image(data, "a")[None])
    for where in (box(0, 0, 40, 40), box(8, 2, 30, 37), box(12, 12, 28, 28)):
        difference = read_scaled(store, 0, (40, 40), where).astype(int) - read_scaled(whole, 0, (40, 40), where).astype(
            int
        )
        assert np.abs(difference).mean() < 1.0
        assert np.abs(difference).max() <= 10
    assert len(decoded_sizes) == 3


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_every_kind_of_jpeg_becomes_rgb(tmp_path, decoded_sizes, mode) -> None:
    data = jpeg(Image.fromarray(photograph(200, 200)).convert(mode))
    store = file_store(tmp_path / "a.jpg", data)
    whole = ArrayStore("a", decode_image(data, "a")[None])
    difference = read_scaled(store, 0, (20, 20), box(0, 0, 20, 20)) - read_scaled(
        whole, 0, (20, 20), box(0, 0, 20, 20)
    ).astype(int)
    assert np.abs(difference).mean() < 1.0
    assert len(decoded_sizes) == 1


@pytest.mark.parametrize("name", ["cut.jpg", "text.jpg", "cut.png"])
def test_what_cannot_be_decoded_is_named_in_one_line(tmp_path, name) -> None:
    path = tmp_path / name
    Image.fromarray(photograph(200, 200)).save(path)
    path.write_bytes(b"no image at all" if name == "text.jpg" else path.read_bytes()[:-300])
    with pytest.raises(InputError) as expected:
        decode_image(path.read_bytes(), str(path))
    with pytest.raises(InputError) as refusal:
        read_scaled(FileStore([path]), 0, (20, 20), box(0, 0, 20, 20))
    assert str(refusal.value) == str(expected.value)
    assert "\n" not in str(refusal.value)


def write_parquet(folder: Path, data: bytes) -> str:
    folder.mkdir()
    images = pa.array(
        [{"bytes": data, "path": "a.jpg"}] * 8, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": images, "label": pa.array([0, 1] * 4, pa.int64())}), folder / "train.parquet")
    return f"parquet:{folder}"


def write_shard(folder: Path, data: bytes) -> str:
    folder.mkdir()
    with tarfile.open(folder / "train-000.tar", "w") as shard:
        for number in range(8):
            for extension, content in (("jpg", data), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{extension}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    return f"shards:{folder}"


@pytest.mark.parametrize("write", [write_parquet, write_shard])
def test_every_store_of_encoded_images_is_read_at_a_reduced_size(tmp_path, decoded_sizes, write) -> None:
    data = jpeg(photograph(300, 300))
    split = open_data(write(tmp_path / "data", data), val_fraction=0.25).train
    shown = read_scaled(split.store, int(split.rows[0]), (32, 32), box(0, 0, 32, 32))
    assert decoded_sizes == [(75, 75)]
    assert np.array_equal(shown, read_scaled(file_store(tmp_path / "a.jpg", data), 0, (32, 32), box(0, 0, 32, 32)))


def test_regions_stay_inside_of_the_image() -> None:
    region = region_of(box(0, 0, 7, 7), (7, 7), (23, 31))
    assert (region.top, region.bottom) == (0, 23)
    assert (region.left, region.right) == (4, 27)
