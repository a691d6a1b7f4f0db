"""Views: tables that repeat and cover, and batched operations that equal torchvision's image by image."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.functional import convert_image_dtype, to_tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from angularkd.data import Views, ViewTable, identity_views
from angularkd.data.views.seeds import mix, permutation, random_words, uniforms
from angularkd.errors import InputError

FINITE = [(), ("flip",), ("crop",), ("crop", "flip")]
PINNED_TABLES = {
    ("crop", "flip"): "421158f7689eb948e8e5174b5ae71d6b300f36471ebf0f1218f2fd3b35b1a260",
    ("resized_crop", "flip"): "a00b574847b7136896b98be80034ebb94677818b0879054069a6d06192b17f27",
    ("trivial_augment",): "1ac858f53f76c6d1d23778187efe327dbdd42c7a8cea3ef153006c3735eebd69",
    ("rand_augment",): "0c3d5815fe9bcef584a1f5ca9bca09fa8265bf343f725bbbf3ddf0cefc18000e",
    ("erase",): "8cdd13e0b18a9c7edde9147bc9069eb7486e06ba8fb35432f44db1fed74a9d44",
}
ALTERED = [
    ("trivial_augment", "flip"),
    ("crop", "rand_augment"),
    ("erase",),
    ("resized_crop", "trivial_augment", "erase"),
]
ALL = [*FINITE, ("resized_crop",), ("resized_crop", "flip"), *ALTERED]


def random_images(count: int, height: int = 16, width: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def smooth_images(count: int, size: int = 32) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    waves = [torch.sin(3 * x + k) * torch.cos(2 * y - k) for k in range(3 * count)]
    return (
        ((torch.stack(waves) * 0.5 + 0.5) * 255).round().to(torch.uint8).view(count, 3, size, size).permute(0, 2, 3, 1)
    )


def one_by_one(image: Tensor, row: ViewTable, padding: int) -> Tensor:
    """The slow oracle: one image by torchvision's functional operations, which know nothing of batches."""
    columns = {name: column[0] for name, column in row.columns.items()}
    planes = convert_image_dtype(image.permute(2, 0, 1))
    height, width = planes.shape[1:]
    if "top" in columns:
        top, left = int(columns["top"]) + padding, int(columns["left"]) + padding
        planes = tv.crop(tv.pad(planes, [padding]), top, left, height, width)
    if "box" in columns:
        planes = tv.resized_crop(planes, *columns["box"].tolist(), size=[height, width], antialias=True)
    return tv.horizontal_flip(planes) if columns.get("flip") else planes


def columns_equal(left: ViewTable, right: ViewTable) -> bool:
    assert left.columns.keys() == right.columns.keys()
    return all(torch.equal(left.columns[name], right.columns[name]) for name in left.columns)


# Seeds


def test_seeds_are_fixed_for_good():
    assert mix("order", 0, 1) == 0x6AACD945B2C3DF987957751B718CE3A2
    assert random_words(2, "pinned", 7).tolist() == [13875651457434879175, 12657047373469477651]
    assert permutation(6, "pinned", 7).tolist() == [5, 4, 1, 0, 2, 3]


def test_seeds_differ_in_every_part():
    seeds = {
        mix("a", 0, 1),
        mix("a", 1, 0),
        mix("b", 0, 1),
        mix("a", 0, 1, 0),
        mix("a", 2**32),
        mix("a", 0),
        mix("a", -1),
    }
    assert len(seeds) == 7


def test_longer_draws_begin_with_shorter_ones_and_uniforms_are_even():
    assert random_words(50, "x")[:20].tolist() == random_words(20, "x").tolist()
    values = uniforms(20_000, "even")
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01
    assert sorted(permutation(100, "p")) == list(range(100))


# Tables


@pytest.mark.parametrize("ops", ALL)
def test_a_table_depends_on_seed_and_view_alone(ops):
    views = Views(ops, 40, (32, 32), seed=3)
    before = views.table(5)
    views.table(0), views.table(11)
    assert columns_equal(before, views.table(5))
    assert columns_equal(before, Views(tuple(reversed(ops)), 40, (32, 32), seed=3).table(5))
    if ops:
        assert not columns_equal(before, views.table(6))
        assert not columns_equal(before, Views(ops, 40, (32, 32), seed=4).table(5))


@pytest.mark.parametrize(("ops", "digest"), PINNED_TABLES.items())
def test_tables_are_the_same_in_every_process_and_version(ops, digest):
    columns = Views(ops, 30, (32, 32), seed=9).table(4).columns
    content = b"".join(columns[name].numpy().tobytes() for name in sorted(columns))
    assert hashlib.sha256(content).hexdigest() == digest, "tables changed: every teacher cache that exists is stale"


@pytest.mark.parametrize(
    ("ops", "size", "padding", "count"),
    [
        ((), (32, 32), None, 1),
        (("flip",), (32, 32), None, 2),
        (("crop",), (32, 32), None, 81),
        (("crop", "flip"), (32, 32), None, 162),
        (("crop",), (16, 16), None, 25),
        (("flip", "crop"), (32, 48), 1, 18),
        (("resized_crop",), (32, 32), None, None),
        (("flip", "trivial_augment"), (32, 32), None, None),
        (("flip", "rand_augment"), (32, 32), None, None),
        (("flip", "erase"), (32, 32), None, None),
    ],
)
def test_count(ops, size, padding, count):
    assert Views(ops, 4, size, padding=padding).count == count


@pytest.mark.parametrize("ops", FINITE)
def test_count_consecutive_views_show_every_variant_of_every_sample_once(ops):
    views = Views(ops, 12, (32, 32), seed=1)
    tables = [views.table(view) for view in range(3, 3 + views.count)]
    for sample in range(12):
        seen = {tuple(int(column[sample]) for column in table.columns.values()) for table in tables}
        assert len(seen) == views.count
    assert columns_equal(views.table(2), views.table(2 + views.count))
    if "crop" in ops:
        shifts = torch.stack([torch.stack([table.columns["top"], table.columns["left"]]) for table in tables])
        assert (int(shifts.min()), int(shifts.max())) == (-4, 4)


@settings(max_examples=25, deadline=None)
@given(padding=st.integers(1, 5), seed=st.integers(0, 2**40), flip=st.booleans(), first=st.integers(0, 10**6))
def test_coverage_holds_for_any_padding_and_seed(padding, seed, flip, first):
    views = Views(("crop", "flip") if flip else ("crop",), 3, (12, 12), seed=seed, padding=padding)
    tables = [views.table(first + view).columns for view in range(views.count)]
    seen = [{tuple(int(column[sample]) for column in table.values()) for table in tables} for sample in range(3)]
    assert [len(variants) for variants in seen] == [views.count] * 3


@pytest.mark.parametrize(
    "ops", [("flip",), ("crop", "flip"), ("resized_crop", "flip"), ("rand_augment", "flip", "erase")]
)
def test_flips_alternate_and_about_half_the_samples_are_flipped(ops):
    views = Views(ops, 2000, (32, 32))
    flips = [views.table(view).columns["flip"] for view in range(4)]
    assert all(torch.equal(flips[view], ~flips[view + 1]) for view in range(3))
    assert 900 < int(flips[0].sum()) < 1100


def test_a_limit_is_the_first_of_all_views():
    """So that few views of a sample are as different as many, half of them mirrored, and other samples have others."""
    every, few = (
        Views(("crop", "flip"), 500, (32, 32), seed=3),
        Views(("crop", "flip"), 500, (32, 32), seed=3, limit=16),
    )
    assert (every.count, few.count) == (162, 16)
    assert [few.view_of(epoch) for epoch in (0, 15, 16, 40)] == [0, 15, 0, 8]
    tables = [few.table(view).columns for view in range(16)]
    for view, columns in enumerate(tables):
        assert all(torch.equal(column, every.table(view).columns[name]) for name, column in columns.items())
    outcomes = torch.stack(
        [torch.stack([table[name].long() for name in ("top", "left", "flip")], 1) for table in tables], 1
    )
    assert all(len(of_sample.unique(dim=0)) == 16 for of_sample in outcomes)
    assert (outcomes[:, :, 2].sum(1) == 8).all()
    assert len(outcomes[:, :, :2].flatten(0, 1).unique(dim=0)) == 81


@pytest.mark.parametrize(("ops", "limit", "count"), [(("flip",), 16, 2), (("crop", "flip"), 162, 162), ((), 5, 1)])
def test_a_limit_that_all_views_fit_into_is_none(ops, limit, count):
    views = Views(ops, 10, (32, 32), limit=limit)
    assert views.count == count and views.limit is None


def test_samples_differ_in_their_order():
    views = Views(("crop", "flip"), 500, (32, 32))
    paths = torch.stack(
        [views.table(view).columns["top"] * 9 + views.table(view).columns["left"] for view in (0, 2, 4)], 1
    )
    assert len({tuple(path) for path in paths.tolist()}) > 450


def test_view_of_an_epoch():
    assert [Views(("flip",), 4, (8, 8)).view_of(epoch) for epoch in range(4)] == [0, 1, 0, 1]
    assert Views(("resized_crop",), 4, (8, 8)).view_of(1000) == 1000


# Resized crop: the distribution of torchvision


def test_resized_crops_stay_in_the_image_and_in_the_limits():
    height, width = 64, 48
    views = Views(("resized_crop",), 5000, (height, width), scale=(0.2, 0.9), ratio=(0.5, 1.2))
    top, left, box_height, box_width = views.table(0).columns["box"].long().unbind(1)
    assert int(top.min()) >= 0 and int((top + box_height).max()) <= height
    assert int(left.min()) >= 0 and int((left + box_width).max()) <= width
    share = box_height * box_width / (height * width)
    share = share[share < 1]  # the fallback shows the whole image
    assert 0.18 < float(share.min()) < 0.25 and 0.85 < float(share.max()) < 0.93
    ratio = box_width / box_height
    assert float(ratio.min()) > 0.48 and 1.1 < float(ratio.max()) < 1.26


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_resized_crops_are_distributed_as_torchvisions(size):
    """Quantiles of every parameter, against 4000 draws of torchvision: within three standard errors, about 0.03."""
    torch.manual_seed(0)
    transform = RandomResizedCrop(size)
    image = torch.zeros(3, *size)
    theirs = np.array([list(transform.make_params([image]).values()) for _ in range(4000)])
    ours = np.concatenate(
        [Views(("resized_crop",), 4000, size, seed=5).table(view).columns["box"] for view in range(2)]
    )
    for column in range(4):
        for level in range(0, max(size) + 1, 4):
            assert abs((ours[:, column] <= level).mean() - (theirs[:, column] <= level).mean()) < 0.03


@pytest.mark.parametrize(("size", "box"), [((10, 40), (0, 13, 10, 13)), ((40, 10), (13, 0, 13, 10))])
def test_a_crop_that_never_fits_is_central(size, box):
    """The whole area at a ratio of at most 4 : 3 does not fit in a long image: torchvision's fallback."""
    views = Views(("resized_crop",), 50, size, scale=(1.0, 1.0))
    transform = RandomResizedCrop(size, scale=(1.0, 1.0))
    theirs = transform.make_params([torch.zeros(3, *size)])
    assert views.table(0).columns["box"].unique(dim=0).tolist() == [list(box)] == [list(theirs.values())]


# Images


@pytest.mark.parametrize("ops", FINITE)
@pytest.mark.parametrize("view", [0, 1, 17])
def test_flip_and_crop_equal_torchvision_exactly(ops, view):
    images = random_images(30)
    views = Views(ops, 30, (16, 24), seed=2, padding=3)
    table = views.table(view)
    batch = views.apply(images, table)
    rows = [table.rows(torch.tensor([index])) for index in range(30)]
    expected = torch.stack([one_by_one(image, row, 3) for image, row in zip(images, rows, strict=True)])
    assert torch.equal(batch, expected)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_every_shift_of_one_image_equals_torchvision():
    image = random_images(1, 8, 8)
    views = Views(("crop", "flip"), 1, (8, 8), padding=7)
    for view in range(views.count):
        row = views.table(view)
        assert torch.equal(views.apply(image, row)[0], one_by_one(image[0], row, 7))


@pytest.mark.parametrize("ops", [("resized_crop",), ("resized_crop", "flip")])
@pytest.mark.parametrize("images", [smooth_images(40), random_images(40, 32, 32)], ids=["smooth", "noise"])
def test_resized_crop_is_close_to_torchvision(ops, images):
    """To 1e-5 on float images, which is float32 rounding of coordinates; to one of 256 levels on uint8 images."""
    views = Views(ops, 40, (32, 32), seed=8)
    table = views.table(0)
    batch = views.apply(images, table)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for index in range(40):
        row = table.rows(torch.tensor([index]))
        torch.testing.assert_close(batch[index], one_by_one(images[index], row, 0), atol=2e-5, rtol=0)
        box = row.columns["box"][0].tolist()
        levels = tv.resized_crop(images[index].permute(2, 0, 1), *box, size=[32, 32], antialias=True)
        levels = tv.horizontal_flip(levels) if "flip" in ops and row.columns["flip"][0] else levels
        torch.testing.assert_close(batch[index] * 255, levels.float(), atol=1.01, rtol=0)


def test_resized_crop_reads_nothing_outside_its_box():
    image = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    image[:, 4:9, 6:12] = 51
    views = Views(("resized_crop",), 1, (16, 16))
    inside = views.apply(image, ViewTable({"box": torch.tensor([[4, 6, 5, 6]], dtype=torch.int16)}))
    torch.testing.assert_close(inside, torch.full_like(inside, 0.2))


@pytest.mark.parametrize("ops", ALL)
def test_an_image_does_not_depend_on_its_batch(ops):
    images = random_images(20, 32, 32)
    views = Views(ops, 20, (32, 32))
    table = views.table(7)
    together = views.apply(images, table)
    for indices in (torch.tensor([3]), torch.tensor([19, 0, 3, 3])):
        assert torch.equal(views.apply(images[indices], table.rows(indices)), together[indices])


def test_levels_become_the_floats_of_to_tensor():
    """(torchvision.transforms.v2 multiplies by a rounded 1 / 255 instead: half of its values differ by a bit.)"""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    unit = identity_views(1, (16, 16)).apply(levels, ViewTable({}))
    assert torch.equal(unit[0], to_tensor(levels[0].numpy()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("ops", ALL)
def test_images_are_the_same_on_a_gpu(ops):
    images = random_images(64, 32, 32)
    views = Views(ops, 64, (32, 32))
    on_cpu = views.apply(images, views.table(3))
    on_gpu = views.apply(images.cuda(), views.table(3).to("cuda")).cpu()
    if {"trivial_augment", "rand_augment"} & set(ops):  # a level or a nearest neighbour may be rounded the other way
        assert float((on_gpu != on_cpu).float().mean()) < 0.01
    else:
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-5 if "resized_crop" in ops else 0, rtol=0)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"ops": ("flop",)},
            "unknown augmentation 'flop': expected some of flip, crop, resized_crop, trivial_augment, rand_augment, erase. "
            "Did you mean",
        ),
        ({"ops": ("trivial_augmentation",)}, "Did you mean 'trivial_augment'"),
        ({"ops": ("flip", "flip")}, "named twice"),
        ({"ops": ("crop", "resized_crop")}, "crop and resized_crop both choose what part"),
        ({"ops": ("rand_augment", "trivial_augment")}, "trivial_augment and rand_augment both choose what is done"),
        ({"ops": ("crop",), "padding": 0}, "padding must be above 0 and below the image's 8 pixels, got 0"),
        ({"ops": ("crop",), "padding": 8}, "padding must be above 0"),
        ({"ops": ("crop",), "image_size": (4, 4)}, "leave crop out for images this small"),
        ({"ops": ("resized_crop",), "scale": (0.0, 1.0)}, "0 < least <= largest <= 1, got (0.0, 1.0)"),
        ({"ops": ("resized_crop",), "ratio": (2.0, 1.0)}, "the ratio must satisfy"),
        ({"ops": ("rand_augment",), "num_ops": 0}, "got 0 of 9"),
        ({"ops": ("rand_augment",), "strength": 31}, "a strength from 0 to 30, got 2 of 31"),
        ({"ops": ("erase",), "erase_probability": 1.5}, "must be from 0 to 1, got 1.5"),
    ],
)
def test_impossible_views_are_refused_in_one_line(arguments, message):
    with pytest.raises(InputError) as refusal:
        Views(**{"num_samples": 2, "image_size": (8, 8), **arguments})
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_images_of_another_size_and_negative_views_are_refused():
    views = Views(("crop",), 2, (16, 16))
    with pytest.raises(ValueError, match="cannot be applied"):
        views.apply(random_images(2, 16, 24), views.table(0))
    with pytest.raises(ValueError, match="cannot be applied"):
        views.alter(torch.zeros(2, 3, 16, 24), views.table(0))
    with pytest.raises(ValueError, match="numbered from 0"):
        views.table(-1)
