"""From files to pixels: decoding as a person sees the image, and a whole split in memory."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from angularkd.data import (
    ResidentImages,
    Split,
    channel_stats,
    decode_image,
    fit,
    fits_memory,
    in_memory,
    load_resident,
    open_data,
    sampled_channel_stats,
    statistics,
)
from angularkd.data.decode import image_size
from angularkd.data.in_memory import load_readable
from angularkd.data.sources.folders import FileStore, open_folder
from angularkd.data.splits import whole
from angularkd.data.stores import ArrayStore
from angularkd.errors import InputError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    pixels = decode_image(encoded(image, kind, **options), "it")
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and pixels.flags.writeable
    return pixels


# Decoding


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_keep_every_pixel(kind, options):
    assert np.array_equal(decoded(Image.fromarray(noise(9, 14)), kind, **options), noise(9, 14))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 40}, {"quality": 95, "exif": b"Exif\0\0"}])
def test_webp_is_decoded_as_pillow_decodes_it(options):
    data = encoded(Image.fromarray(noise(31, 45)), "WEBP", **options)
    assert np.array_equal(decode_image(data, "it"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    colours = np.zeros((32, 64, 3), dtype=np.uint8)
    colours[:16, :32], colours[:16, 32:], colours[16:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(colours), kind, exif=exif)
    turn = {
        2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a),
    }.get(orientation, lambda a: a)  # fmt: skip
    expected = turn(colours)
    pixels = decode_image(data, "it")
    assert pixels.shape == expected.shape and image_size(data, "it") == expected.shape[:2]
    assert np.abs(pixels.astype(int) - expected).mean() < 12  # JPEG and WebP are lossy; a wrong turn gives 90


def test_grey_becomes_three_equal_channels():
    grey = noise(6, 7)[..., 0]
    assert np.array_equal(decoded(Image.fromarray(grey)), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1" and set(np.unique(decoded(bits))) == {0, 255}


def test_transparency_is_composited_on_white():
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, (0, 128, 255)
    expected = [[255, 255, 255], [227, 127, 127], [200, 0, 0]]
    assert np.abs(decoded(Image.fromarray(pixels))[0].astype(int) - expected).max() <= 1
    assert (
        np.abs(decoded(Image.fromarray(pixels), "WEBP", lossless=True, exact=True)[0].astype(int) - expected).max() <= 1
    )
    grey = Image.merge("LA", [Image.new("L", (2, 1), 60), Image.new("L", (2, 1), 0)])
    assert decoded(grey).tolist() == [[[255] * 3] * 2]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decoded(palette).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert decoded(palette, transparency=1).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert decoded(palette, "GIF", transparency=0).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_becomes_rgb():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.abs(decoded(cyan, "JPEG", quality=95).reshape(-1, 3).mean(0) - [0, 255, 255]).max() < 4
    assert decoded(cyan, "TIFF")[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_by_their_format(kind):
    values = np.array([[0, 128, 129, 257, 1000, 32768, 65535]], dtype=np.uint16)
    assert decoded(Image.fromarray(values), kind)[0, :, 1].tolist() == [0, 0, 1, 1, 4, 128, 255]


@pytest.mark.parametrize(("values", "message"), [
    (np.array([[0, 70_000]], dtype=np.int32), "32-bit integers"),
    (np.array([[0, 255]], dtype=np.int32), "32-bit integers"),
    (np.array([[0, 1000]], dtype=np.int32), "32-bit integers"),
    (np.array([[-5, 255]], dtype=np.int16), "32-bit integers"),
    (np.array([[0.0, 1.0]], dtype=np.float32), "floating-point numbers"),
    (np.array([[0.0, 255.0]], dtype=np.float32), "floating-point numbers"),
])  # fmt: skip
@pytest.mark.parametrize("orientation", [1, 6])
def test_pixels_without_a_known_range_are_refused(values, message, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = (
        f"cannot use x.tif: its pixels are {message}, and no format says which is white; convert all such images by one"
    )
    with pytest.raises(InputError, match=expected):
        decode_image(encoded(Image.fromarray(values), "TIFF", exif=exif), "x.tif")


def test_transparent_grey_of_sixteen_bits_is_white():
    values = np.array([[1000, 40000]], dtype=np.uint16)
    assert decoded(Image.fromarray(values), "PNG", transparency=1000)[0, :, 0].tolist() == [255, 156]


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])[0, 0].tolist() == [255, 0, 0]
    webp = decoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert webp[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_named_and_refused(kind):
    data = encoded(Image.fromarray(noise(40, 40)), kind)
    for length in (len(data) // 2, len(data) * 9 // 10, 12):
        with pytest.raises(InputError) as refusal:
            decode_image(data[:length], "photos/cat/7.jpg")
        assert str(refusal.value).startswith("cannot decode photos/cat/7.jpg: ")
        assert str(refusal.value).endswith("; repair the file or remove it.") and "\n" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"not an image", b"RIFF\0\0\0\0WEBPVP8 nonsense"])
def test_what_is_no_image_is_named_and_refused(data):
    for function in (decode_image, image_size):
        with pytest.raises(
            InputError, match=r"cannot decode x\.jpg: (not an image|could not create decoder).*; repair"
        ):
            function(data, "x.jpg")


def test_awkward_images(shared_folder, tmp_path):
    with tarfile.open(shared_folder / "data" / "awkward_images.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(InputError, match="awkward: no class has the 3 images needed to draw test and val"):
        open_data(str(tmp_path / "awkward"))
    source = open_folder(tmp_path / "awkward")
    train = source.splits["train"]
    assert len(source.classes) == 14 and len(train) == 15
    by_name = {Path(train.name(index)).stem.split("_", 1)[-1]: train[index][0] for index in range(len(train))}
    assert by_name["thunder_snake"].shape == (333, 500, 3)  # orientation 0 is none
    assert by_name["can_opener"].shape == (392, 294, 3)  # stored 294 high and 392 wide, turned by orientation 6
    assert by_name["imageNotFound"].shape == (300, 300, 3)
    assert np.array_equal(by_name["nail"][..., 0], by_name["nail"][..., 2])
    for index in range(len(train)):
        assert train.size(index) == train[index][0].shape[:2]
    assert load_resident(train, (64, 64)).pixels.shape == (15, 64, 64, 3)
    with pytest.raises(InputError, match=r"images differ in size: .*JPEG is .* x .*, .* `image_size=224`"):
        load_resident(train)


# A split in memory


def array_split(pixels: np.ndarray) -> Split:
    return whole(ArrayStore("memory", pixels), np.arange(len(pixels)) % 3)


@pytest.mark.parametrize("decoded", [True, False])
def test_load_resident_keeps_order_and_pixels(tmp_path, decoded):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), dtype=np.uint8)
    before = pixels.copy()
    store = ArrayStore("memory", pixels) if decoded else png_store(tmp_path, pixels)
    split = whole(store, np.arange(300) % 3).select(np.arange(299, -1, -1))
    loaded = load_resident(split)
    assert torch.equal(loaded.pixels, torch.from_numpy(pixels).flip(0))
    assert torch.equal(loaded.labels, torch.arange(299, -1, -1) % 3)
    assert loaded.pixels.is_contiguous() and loaded.image_size == (6, 5) and len(loaded) == 300
    loaded.pixels.zero_()
    assert np.array_equal(pixels, before)  # its own memory, not the store's


def test_decoded_images_of_another_size_are_resized():
    pixels = np.full((3, 6, 5, 3), 77, dtype=np.uint8)
    assert torch.equal(load_resident(array_split(pixels), (8, 8)).pixels, torch.full((3, 8, 8, 3), 77).byte())


def png_store(folder: Path, pixels: np.ndarray) -> FileStore:
    paths = [folder / f"{index}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return FileStore(paths)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (128, 64), (16, 24), (32, 96), (32, 32)])
def test_fit_is_resize_and_central_crop(height, width):
    """Within 1 of 256 levels of torchvision's two steps, for sizes where those need no rounding in between."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.stack([x * 255, y * 255, (np.sin(5 * x) * np.cos(4 * y) + 1) * 127], axis=-1).astype(np.uint8)
    scale = max(32 / height, 32 / width)
    resized = tv.resize(torch.from_numpy(image).permute(2, 0, 1), [round(height * scale), round(width * scale)])
    expected = tv.center_crop(resized, [32, 32]).permute(1, 2, 0).numpy()
    ours = fit(image, (32, 32))
    assert ours.shape == (32, 32, 3)
    assert np.abs(ours.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(7, 13), (100, 3), (1, 1), (31, 97)])
@pytest.mark.parametrize("wanted", [(10, 10), (33, 7), (1, 1)])
def test_fit_gives_the_size_for_any_shape(size, wanted):
    grey = np.full((*size, 3), 77, dtype=np.uint8)
    assert np.array_equal(fit(grey, wanted), np.full((*wanted, 3), 77, dtype=np.uint8))


def test_images_of_different_size_need_a_size(tmp_path):
    paths = []
    for index, size in enumerate([(8, 8), (8, 8), (8, 9)]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(noise(*size)).save(paths[-1])
    split = whole(FileStore(paths), [0, 1, 0])
    with pytest.raises(InputError, match=r"0\.png is 8 x 8, .*2\.png is 8 x 9 \(height x width\); .*`image_size=224`"):
        load_resident(split)
    assert load_resident(split, (8, 8)).pixels.shape == (3, 8, 8, 3)


def test_an_undecodable_image_is_found_when_it_is_decoded(tmp_path):
    for name in ("cat", "dog"):
        for index in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            data = encoded(Image.fromarray(noise(20, 20)))
            (tmp_path / name / f"{index}.png").write_bytes(data if (name, index) != ("dog", 2) else data[:200])
    open_data(str(tmp_path))  # reads no pixels
    split = open_folder(tmp_path).splits["train"]
    with pytest.raises(InputError, match=r"cannot decode .*dog/2\.png: .*; repair the file or remove it"):
        load_resident(split)
    (tmp_path / "dog" / "2.png").unlink()
    with pytest.raises(InputError, match=r"cannot read .*dog/2\.png: No such file"):
        load_resident(split)


def test_a_split_larger_than_memory_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(in_memory, "free_memory_bytes", lambda: 2**20)
    split = array_split(np.zeros((10, 4, 4, 3), dtype=np.uint8))
    expected = (
        r"10 images of 20000 x 20000 need 11\.2 GiB of memory, more than 60% of the 0\.0 GiB that are free: choose"
    )
    with pytest.raises(InputError, match=expected):
        load_resident(split, (20_000, 20_000))
    monkeypatch.setattr(in_memory, "free_memory_bytes", lambda: None)
    assert len(load_resident(split)) == 10


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match="holds no images"):
        load_resident(array_split(np.zeros((0, 4, 4, 3), dtype=np.uint8)))


def test_channel_stats_are_exact(monkeypatch):
    monkeypatch.setattr(statistics, "PIXELS_PER_CHUNK", 100)  # several chunks, the last one short
    pixels = np.random.default_rng(0).integers(0, 256, (25, 6, 7, 3), dtype=np.uint8)
    pixels[..., 2] = 51
    mean, std = channel_stats(ResidentImages(torch.from_numpy(pixels), torch.zeros(25, dtype=torch.int64)))
    values = pixels.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(std[:2], values.std(axis=0)[:2], rtol=1e-12)
    assert (mean[2], std[2]) == (0.2, 0.0)


def test_statistics_of_all_images_are_exact(monkeypatch) -> None:
    monkeypatch.setattr(statistics, "BYTES_AT_ONCE", 7 * 16 * 12 * 3)
    split = array_split(np.random.default_rng(1).integers(0, 256, (40, 20, 30, 3), dtype=np.uint8))
    exact = channel_stats(load_resident(split, (16, 12)))
    assert np.allclose(sampled_channel_stats(split, (16, 12)), exact, rtol=1e-12)


def test_statistics_of_a_sample_are_of_images_spread_evenly() -> None:
    pixels = np.repeat(np.arange(100, dtype=np.uint8), 12).reshape(100, 2, 2, 3)
    mean, std = sampled_channel_stats(array_split(pixels), (2, 2), images=10)
    assert mean == pytest.approx([np.arange(0, 100, 10).mean() / 255] * 3)
    assert std == pytest.approx([np.arange(0, 100, 10).std() / 255] * 3)


def test_what_fits_memory(monkeypatch) -> None:
    monkeypatch.setattr(in_memory, "free_memory_bytes", lambda: 10_000)
    assert fits_memory(20, (10, 10))  # 60 % of what is free
    assert not fits_memory(21, (10, 10))
    monkeypatch.setattr(in_memory, "free_memory_bytes", lambda: None)
    assert fits_memory(10**9, (10, 10))


@pytest.mark.parametrize("image_size", [None, (6, 5), (4, 4)])
@pytest.mark.parametrize("spoiled", [[], [0, 1], [3, 9, 150], [299], range(1, 300)])
def test_images_that_cannot_be_decoded_are_left_out(tmp_path, monkeypatch, image_size, spoiled):
    monkeypatch.setattr(in_memory, "IMAGES_PER_TASK", 7)
    store = png_store(tmp_path, np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), dtype=np.uint8))
    split = whole(store, np.arange(300) % 3)
    everything = load_resident(split, image_size)
    for row in spoiled:
        Path(store.paths[row]).write_bytes(b"")
    images, bad = load_readable(split, image_size)
    good = np.setdiff1d(np.arange(300), list(spoiled))
    assert list(bad) == list(spoiled) and all(f"cannot decode {split.name(index)}: " in bad[index] for index in bad)
    assert torch.equal(images.pixels, everything.pixels[good]) and torch.equal(images.labels, everything.labels[good])
    assert images.pixels.is_contiguous()
