"""Common corruptions: seeded for each image, worse with severity, and known where they are known."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from angularkd.metrics import CORRUPTIONS, METRICS, Observation, corrupt
from angularkd.metrics.corruptions.draws import Draws

RANDOM = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "fog",
    "elastic_transform",
)


def photographs(count: int = 3, size: tuple[int, int] = (24, 32)) -> Tensor:
    """Smooth images with edges, of 8 bits."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    smooth[:, :, 6:12, 8:20] = coarse[:, :, :1, :1]
    return (smooth * 255).round() / 255


@pytest.mark.parametrize("size", [(24, 32), (8, 8), (72, 66)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_images_corruption_depends_on_the_image_alone(name, size) -> None:
    images, rows = photographs(3, size), torch.tensor([5, 9, 2])
    for severity in (1, 5):
        together = corrupt(images, rows, name, severity)
        alone = [corrupt(image[None], row[None], name, severity) for image, row in zip(images, rows, strict=True)]
        assert torch.equal(together, torch.cat(alone))
        assert together.shape == images.shape and together.dtype == images.dtype
        assert torch.equal((together * 255).round() / 255, together) and 0 <= together.min() <= together.max() <= 1
    assert torch.equal(images, photographs(3, size)), "what is given stays"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_random_differs_from_image_to_image(name) -> None:
    images = photographs(1).repeat(2, 1, 1, 1)
    first, second = corrupt(images, torch.tensor([0, 1]), name, 3)
    assert torch.equal(first, second) == (name not in RANDOM)


@pytest.mark.parametrize("size", [(24, 32), (72, 66)])
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "elastic_transform"])
def test_the_last_severity_changes_more_than_the_first(name, size) -> None:
    images = photographs(4, size)
    change = [(corrupt(images, torch.arange(4), name, severity) - images).abs().mean() for severity in (1, 5)]
    assert 0 < change[0] < change[1]


def test_noise_has_its_published_size() -> None:
    grey = torch.full((1, 3, 64, 64), 128 / 255)
    rows = torch.tensor([0])
    assert (corrupt(grey, rows, "gaussian_noise", 3) - grey).std().item() == pytest.approx(0.08, rel=0.05)
    expected = np.sqrt(100 * 128 / 255) / 100
    assert (corrupt(grey, rows, "shot_noise", 3) - grey).std().item() == pytest.approx(expected, rel=0.05)
    flipped = corrupt(grey, rows, "impulse_noise", 5) != grey
    assert flipped.float().mean().item() == pytest.approx(0.07, rel=0.2)


def test_contrast_brightness_pixels_and_jpeg_are_their_definitions() -> None:
    images, rows = photographs(1), torch.tensor([0])
    means = images.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(corrupt(images, rows, "contrast", 2), (images - means) * 0.5 + means, atol=0.002)
    found = corrupt(images, rows, "brightness", 2)
    assert torch.allclose(found.amax(dim=1), (images.amax(dim=1) + 0.1).clamp(max=1), atol=0.003)
    picture = Image.fromarray((images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=58)
    expected = {
        "jpeg_compression": Image.open(buffer),
        "pixelate": picture.resize((27, 20), Image.Resampling.BOX).resize((32, 24), Image.Resampling.BOX),
    }
    for name, made in expected.items():
        array = torch.from_numpy(np.array(made)).permute(2, 0, 1) / 255
        assert torch.allclose(corrupt(images, rows, name, 3)[0], array, atol=1e-6), name


@pytest.mark.parametrize(("size", "last", "step"), [((32, 32), 1.26, 0.01), ((72, 66), 1.31, 0.03)])
def test_zooms_are_scipys_of_the_centre(size, last, step) -> None:
    images = photographs(1, size)
    pixels, factors = images[0].double().numpy(), np.arange(1, last, step)
    expected = pixels.copy()
    for factor in factors:
        cut = [np.ceil(side / factor).astype(int) for side in size]
        top, left = ((side - part) // 2 for side, part in zip(size, cut, strict=True))
        centre = pixels[:, top : top + cut[0], left : left + cut[1]]
        large = ndimage.zoom(centre, (1, factor, factor), order=1)
        top, left = ((large.shape[1 + axis] - size[axis]) // 2 for axis in (0, 1))
        expected += large[:, top : top + size[0], left : left + size[1]]
    expected /= len(factors) + 1
    assert np.abs(corrupt(images, torch.tensor([0]), "zoom_blur", 5)[0].numpy() - expected).max() < 0.51 / 255


def test_a_lens_out_of_focus_spreads_a_point_over_a_disk() -> None:
    point = torch.zeros(1, 3, 71, 71)
    point[..., 35, 35] = 1
    found = corrupt(point, torch.tensor([0]), "defocus_blur", 1)[0, 0]  # a radius of 3 pixels, of large images
    steps = torch.arange(71) - 35
    disk = (steps[:, None] ** 2 + steps**2 <= 9).float()
    assert torch.allclose(found, disk / disk.sum(), atol=0.51 / 255)


def test_a_moving_camera_spreads_a_point_along_a_line() -> None:
    point = torch.zeros(1, 3, 71, 71)
    point[..., 35, 35] = 1
    found = corrupt(point, torch.tensor([0]), "motion_blur", 1)[0, 0]
    rows, columns = found.nonzero(as_tuple=True)
    assert 5 < len(rows) <= 21 and found.sum().item() == pytest.approx(1, abs=0.05)
    assert found[35, 35] == found.max() and columns.max() == 35 and (rows - 35).abs().max() <= (35 - columns).max()


@pytest.mark.parametrize(
    ("size", "severity", "glass"), [((32, 32), 4, (0.25, 1, 2)), ((66, 72), 3, (1, 2, 3)), ((72, 66), 5, (1.5, 4, 2))]
)
def test_glass_moves_pixels_one_after_another_as_the_published_code_does(size, severity, glass) -> None:
    """Its line `x[h, w], x[h_prime, w_prime] = x[h_prime, w_prime], x[h, w]`, in NumPy a copy from the second to the first."""
    images, (sigma, near, times), (height, width) = photographs(2, size), glass, size
    moves = Draws("glass_blur", severity, [7, 3]).integers(-near, near, times, height - 2 * near, width - 2 * near, 2)
    for image, found, steps in zip(
        images, corrupt(images, torch.tensor([7, 3]), "glass_blur", severity), moves, strict=True
    ):
        x = ndimage.gaussian_filter(image.double().permute(1, 2, 0).numpy(), (sigma, sigma, 0), mode="nearest")
        for time in range(times):
            for i, h in enumerate(range(height - near, near, -1)):
                for j, w in enumerate(range(width - near, near, -1)):
                    down, right = steps[time, i, j]
                    x[h, w], x[h + down, w + right] = x[h + down, w + right], x[h, w]
        expected = ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest").transpose(2, 0, 1)
        assert np.abs(found.numpy() - expected).max() < 0.51 / 255


@pytest.mark.parametrize(("severity", "last"), [(1, 16), (4, 17)])
def test_glass_frays_an_edge_by_a_pixel_a_round(severity, last) -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1
    found = corrupt(edge, torch.tensor([1]), "glass_blur", severity)
    frayed = (found != edge).any(dim=1)[0]
    assert 8 <= frayed[:, 16].sum() < 30 and set(found.unique().tolist()) == {0, 1}
    assert frayed.any(dim=0).nonzero().flatten().tolist() == list(range(16, last + 1))


@pytest.mark.parametrize("size", [(32, 32), (72, 66)])
def test_snow_is_white_falls_twice_and_whitens(size) -> None:
    """On one grey, what falls is the same turned by half a turn, in all colours alike; between flakes the image is whitened."""
    grey = torch.full((1, 3, *size), 51 / 255)
    share = {32: (0.95, 0.8), 72: (0.8, 0.55)}[size[0]]
    bare = [part * 0.2 + (1 - part) * max(0.2, 1.5 * 0.2 + 0.5) for part in share]
    for severity, background in zip((1, 5), bare, strict=True):
        found = corrupt(grey, torch.tensor([4]), "snow", severity)
        assert torch.equal(found, found.rot90(2, (2, 3))) and torch.equal(found[:, 0], found[:, 1])
        assert found.min().item() == pytest.approx(background, abs=0.51 / 255), "somewhere no snow falls"
        assert found.max() > background + 0.1


def test_snow_gets_thicker() -> None:
    images = photographs(8, (32, 32))
    lighter = [(corrupt(images, torch.arange(8), "snow", severity) - images).mean() for severity in (1, 2, 4, 5)]
    assert all(less < more for less, more in itertools.pairwise([0, *lighter]))


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"]
)
def test_an_image_of_one_colour_stays_one_under_blur_and_warps(name) -> None:
    plain = torch.tensor([40, 100, 250])[None, :, None, None].expand(1, 3, 16, 16) / 255
    for severity in (1, 5):
        assert torch.allclose(corrupt(plain, torch.tensor([3]), name, severity), plain, atol=0.5 / 255)


def test_black_and_tiny_images_can_be_corrupted() -> None:
    for images in (torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 2, 2)):
        for name in CORRUPTIONS:
            assert corrupt(images, torch.arange(2), name, 5).isfinite().all(), name


def test_robustness_is_the_mean_of_the_table_and_does_not_depend_on_the_batch() -> None:
    images, labels = photographs(6, (8, 8)), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = torch.randn(192, 2, generator=torch.Generator().manual_seed(1))

    def sums(rows: Tensor) -> Tensor:
        signals = {"images": images[rows], "labels": labels[rows], "indices": rows}
        return METRICS["robustness"].sums(Observation(2, predict=lambda x: x.flatten(1) @ weight, **signals))

    whole = sums(torch.arange(6))
    assert torch.equal(whole, sums(torch.arange(4)) + sums(torch.arange(4, 6)))
    table = METRICS["corruptions"].value(whole, 6)
    assert list(table) == list(CORRUPTIONS) and all(len(row) == 5 for row in table.values())
    assert METRICS["robustness"].value(whole, 6) == pytest.approx(np.mean(list(table.values())))
    direct = corrupt(images, torch.arange(6), "fog", 4).flatten(1) @ weight
    assert table["fog"][3] == pytest.approx((direct.argmax(dim=1) == labels).float().mean().item())
