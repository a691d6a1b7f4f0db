"""Trivial and rand augment: torchvision's draws, torchvision's pixels image by image, and whole views made of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from angularkd.data import Views, ViewTable
from angularkd.data.views.autoaugment import (
    PIXEL_WORK,
    SIGNED,
    STRENGTHS,
    WIDE_RANGES,
    auto_augment,
    magnitudes_of,
    random_ranges,
)
from angularkd.data.views.pixels import to_levels, to_unit

NAMES = list(PIXEL_WORK)
SIZES = [(32, 32), (40, 24), (224, 224)]


def random_images(count: int, height: int, width: int) -> Tensor:
    """Noise with large even areas and a grey image in between, as operations on histograms and colours like them least."""
    generator = torch.Generator().manual_seed(height)
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
    images[:, : height // 2] = images[:, :1, :1]
    images[0] = images[0, :, :, :1]
    return images


def torchvisions(image: Tensor, name: str, magnitude: float) -> Tensor:
    """One image [height, width, 3] by torchvision's own transform."""
    transform = v2.TrivialAugmentWide()
    planes = image.permute(2, 0, 1).contiguous()
    altered = transform._apply_image_or_video_transform(
        planes, name, magnitude, interpolation=transform.interpolation, fill=transform._fill
    )
    return altered.permute(1, 2, 0)


def one_by_one(images: Tensor, table: ViewTable) -> Tensor:
    rows = zip(images, table.columns["ops"].tolist(), table.columns["magnitudes"].tolist(), strict=True)
    done = []
    for image, ops, magnitudes in rows:
        for op, magnitude in zip(ops, magnitudes, strict=True):
            image = torchvisions(image, NAMES[op], magnitude)
        done.append(image)
    return torch.stack(done)


def framed_one_by_one(views: Views, images: Tensor, table: ViewTable) -> Tensor:
    """What `crop` and `flip` show of images [batch, height, width, 3], by torchvision."""
    shown = []
    for image, top, left, flip in zip(images, *(table.columns[name] for name in ("top", "left", "flip")), strict=True):
        padded = tv.pad(image.permute(2, 0, 1), [views.padding_px])
        planes = tv.crop(padded, int(top) + views.padding_px, int(left) + views.padding_px, *views.image_size)
        shown.append((tv.horizontal_flip(planes) if flip else planes).permute(1, 2, 0))
    return torch.stack(shown)


# What is drawn


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", [v2.TrivialAugmentWide, v2.RandAugment])
def test_operations_and_magnitudes_are_torchvisions(transform, size) -> None:
    space = transform._AUGMENTATION_SPACE
    assert list(space) == NAMES
    assert {name for name, (_, signed) in space.items() if signed} == SIGNED
    ours = magnitudes_of(random_ranges(size) if transform is v2.RandAugment else WIDE_RANGES)
    for name, row in zip(NAMES, ours, strict=True):
        theirs = space[name][0](STRENGTHS, *size)
        np.testing.assert_allclose(row, 0.0 if theirs is None else theirs.numpy(), rtol=3e-7)


@pytest.mark.parametrize(("op", "turns", "strengths"), [("trivial_augment", 1, 31), ("rand_augment", 2, 1)])
def test_operations_strengths_and_signs_are_equally_probable_and_independent(op, turns, strengths) -> None:
    count = 40_000
    columns = Views((op,), count, (32, 32), seed=3).table(1).columns
    ops, magnitudes = columns["ops"].long(), columns["magnitudes"]
    assert ops.shape == magnitudes.shape == (count, turns)
    for turn in range(turns):
        shares = torch.bincount(ops[:, turn], minlength=14) / count
        assert float((shares - 1 / 14).abs().max()) < 0.006  # 4.6 standard errors
    if turns == 2:
        pairs = torch.bincount(ops[:, 0] * 14 + ops[:, 1], minlength=196) / count
        assert float((pairs - 1 / 196).abs().max()) < 0.0018  # 5 standard errors
    for row, name in enumerate(NAMES):
        drawn = magnitudes[ops == row]
        distinct = strengths if name in WIDE_RANGES and name != "Posterize" else {31: 7, 1: 1}[strengths]
        if name not in WIDE_RANGES:
            assert drawn.unique().tolist() == [0.0]
            continue
        assert len(drawn.abs().unique()) == distinct
        negative = float((drawn < 0).float().mean())
        expected = 0.5 * (30 / 31 if strengths == 31 else 1.0) if name in SIGNED else 0.0
        assert negative == pytest.approx(expected, abs=0.045)
        strong = float((drawn.abs() > drawn.abs().median()).float().mean())
        assert strengths == 1 or name == "Posterize" or strong == pytest.approx(15 / 31, abs=0.045)


def test_a_strength_and_a_number_of_operations_of_ones_own() -> None:
    columns = Views(("rand_augment",), 2000, (32, 32), num_ops=3, strength=30).table(0).columns
    assert columns["ops"].shape == (2000, 3)
    rotations = columns["magnitudes"][columns["ops"] == NAMES.index("Rotate")]
    assert rotations.abs().unique().tolist() == [30.0]


# What is done


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranges", [WIDE_RANGES, random_ranges((20, 28))], ids=["wide", "random"])
def test_every_magnitude_of_every_operation_gives_torchvisions_pixels(name, ranges) -> None:
    """62 images of one operation, each with another magnitude, shuffled, and every magnitude three times."""
    magnitudes = np.float32(magnitudes_of(ranges)[NAMES.index(name)])
    signed = np.concatenate([magnitudes, -magnitudes]) if name in SIGNED else magnitudes
    strengths = torch.from_numpy(np.tile(signed, 3))[torch.randperm(3 * len(signed), generator=torch.manual_seed(0))]
    images = random_images(len(strengths), 20, 28)
    ops = torch.full((len(strengths), 1), NAMES.index(name), dtype=torch.uint8)
    table = ViewTable({"ops": ops, "magnitudes": strengths[:, None]})
    altered = auto_augment(images, **table.columns)
    assert torch.equal(altered, one_by_one(images, table))
    if name != "Identity":
        assert not torch.equal(altered, images)


@pytest.mark.parametrize("op", ["trivial_augment", "rand_augment"])
@pytest.mark.parametrize(("count", "size"), [(128, (32, 32)), (12, (224, 224))])
def test_a_view_is_framed_and_then_altered_as_torchvision_would(op, count, size) -> None:
    images = random_images(count, *size)
    views = Views((op, "crop", "flip"), count, size, seed=4)
    table = views.table(2)
    expected = to_unit(one_by_one(framed_one_by_one(views, images, table), table)).permute(0, 3, 1, 2)
    altered = views.apply(images, table)
    assert torch.equal(altered, expected)
    assert altered.is_contiguous(memory_format=torch.channels_last)


def test_a_resized_crop_is_rounded_to_levels_before_it_is_altered() -> None:
    images = random_images(40, 32, 32)
    views = Views(("resized_crop", "trivial_augment"), 40, (32, 32))
    table = views.table(0)
    levels = views.frame(images, table).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    expected = to_unit(one_by_one(levels, table)).permute(0, 3, 1, 2)
    assert torch.equal(views.apply(images, table), expected)


def test_altering_is_a_step_of_its_own_and_leaves_its_input_alone() -> None:
    images = random_images(20, 32, 32)
    views = Views(("resized_crop", "flip", "rand_augment", "erase"), 20, (32, 32), erase_probability=1.0)
    table = views.table(0)
    framed = views.frame(images, table)
    before = framed.clone()
    altered = views.alter(framed, table)
    assert torch.equal(altered, views.apply(images, table))
    assert torch.equal(framed, before)
    without_frames = ViewTable({name: table.columns[name] for name in ("ops", "magnitudes", "erased")})
    assert torch.equal(altered, views.alter(framed, without_frames))


def test_what_is_erased_is_black_whatever_was_done_before() -> None:
    views = Views(("rand_augment", "erase"), 100, (32, 32), num_ops=1, strength=30, erase_probability=1.0)
    table = views.table(0)
    altered = views.apply(random_images(100, 32, 32), table)
    for image, (top, left, height, width) in zip(altered, table.columns["erased"].tolist(), strict=True):
        assert not image[:, top : top + height, left : left + width].any()


def test_levels_survive_the_way_to_0_1_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(to_unit(levels)), levels)
