"""The resident loader: which sample is in which batch, for every epoch and batch size."""

from __future__ import annotations

import pytest
import torch

from angularkd.data import ResidentImages, ResidentLoader, Views, evaluation_loader, in_order
from angularkd.errors import InputError


def resident_images(count: int, size: int = 8) -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return ResidentImages(pixels, torch.arange(count) % 7)


def training_loader(resident: ResidentImages, batch_size: int, **options: object) -> ResidentLoader:
    views = Views(("crop", "flip"), len(resident), resident.image_size, seed=1)
    settings = {"seed": 1, "shuffle": True, "drop_last": False} | options
    return ResidentLoader(resident, views, batch_size, **settings)


def indices(loader: ResidentLoader, epoch: int = 0) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader.epoch(epoch)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_an_epoch_shows_every_sample_once_in_the_order_of_seed_and_epoch():
    resident = resident_images(50)
    loader = training_loader(resident, 8)
    batches = indices(loader, 3)
    assert [len(batch) for batch in batches] == [8] * 6 + [2]
    assert len(loader) == 7
    assert sorted(flat(batches)) == list(range(50))
    assert flat(batches) != list(range(50))
    indices(loader, 9)
    assert indices(loader, 3) == batches == indices(training_loader(resident, 8), 3)
    assert indices(loader, 4) != batches != indices(training_loader(resident, 8, seed=2), 3)


def test_a_batch_carries_the_images_of_its_view():
    resident = resident_images(30)
    loader = training_loader(resident, 8)
    for epoch in (0, 5, loader.views.count + 5):
        for batch in loader.epoch(epoch):
            assert batch.view == epoch % loader.views.count
            rows = loader.views.table(batch.view).rows(batch.indices)
            assert torch.equal(batch.images, loader.views.apply(resident.pixels[batch.indices], rows))
            assert torch.equal(batch.labels, resident.labels[batch.indices])
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.indices.dtype == batch.labels.dtype == torch.int64


def test_drop_last():
    loader = training_loader(resident_images(50), 8, drop_last=True)
    assert len(loader) == 6
    assert [len(batch) for batch in indices(loader)] == [8] * 6


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_batch_size_larger_than_the_split_gives_one_batch(drop_last):
    loader = training_loader(resident_images(10), 128, drop_last=drop_last)
    assert len(loader) == 1
    assert [sorted(batch) for batch in indices(loader)] == [list(range(10))]


@pytest.mark.parametrize(("count", "batch_size"), [(50, 8), (49, 8), (2, 8), (24, 8), (1, 1)])
def test_evaluation_loses_and_repeats_nothing(count, batch_size):
    loader = evaluation_loader(resident_images(count), batch_size)
    assert flat(indices(loader)) == list(range(count))
    assert len(indices(loader)) == len(loader) and all(indices(loader))


def test_in_order_are_the_same_views_of_all_samples():
    loader = training_loader(resident_images(50), 8, drop_last=True)
    ordered = in_order(loader)
    assert flat(indices(ordered, 3)) == list(range(50)) and len(ordered) == 7 and ordered.batch_size == 8
    batch = next(ordered.epoch(3))
    assert batch.view == 3
    assert torch.equal(
        batch.images, loader.views.apply(loader._pixels[:8], loader.views.table(3).rows(torch.arange(8)))
    )
    assert len(loader) == 6 and flat(indices(loader, 3)) != list(range(48))


def test_evaluation_shows_the_images_as_they_are():
    resident = resident_images(20)
    batches = list(evaluation_loader(resident, 8).epoch(5))
    assert [batch.view for batch in batches] == [0, 0, 0]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, resident.pixels.permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), resident.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"views": Views(("flip",), 9, (8, 8))}, "views of 9 images of size (8, 8) do not fit 10 images"),
        (
            {"views": Views(("flip",), 10, (8, 6))},
            "views of 10 images of size (8, 6) do not fit 10 images of size (8, 8)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    settings = {"views": Views(("flip",), 10, (8, 8)), "batch_size": 4, "seed": 0, "shuffle": True, "drop_last": False}
    with pytest.raises(InputError) as refusal:
        ResidentLoader(resident_images(10), **(settings | options))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
