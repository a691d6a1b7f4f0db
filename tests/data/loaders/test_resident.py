"""The resident loader: which sample is in which batch, for every epoch, rank and batch size."""

from __future__ import annotations

import pytest
import torch

from angularkd.data.in_memory import ResidentImages
from angularkd.data.loaders.resident import ResidentLoader, evaluation_loader
from angularkd.data.views.tables import Views
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


def test_an_epoch_can_go_on_in_its_middle():
    loader = training_loader(resident_images(30), 8)
    rest = list(loader.epoch(2, first_batch=2))
    whole = list(loader.epoch(2))
    assert [batch.indices.tolist() for batch in rest] == [batch.indices.tolist() for batch in whole[2:]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(rest, whole[2:], strict=True))


def test_drop_last():
    loader = training_loader(resident_images(50), 8, drop_last=True)
    assert len(loader) == 6
    assert [len(batch) for batch in indices(loader)] == [8] * 6


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_batch_size_larger_than_the_split_gives_one_batch(drop_last):
    loader = training_loader(resident_images(10), 128, drop_last=drop_last)
    assert len(loader) == 1
    assert [sorted(batch) for batch in indices(loader)] == [list(range(10))]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"), [(50, 4, 2), (53, 4, 3), (25, 4, 3), (7, 100, 2), (3, 1, 3)]
)
def test_training_ranks_share_the_epoch_evenly(count, batch_size, world_size, drop_last):
    resident = resident_images(count)
    options = {"drop_last": drop_last, "world_size": world_size}
    loaders = [training_loader(resident, batch_size, rank=rank, **options) for rank in range(world_size)]
    shares = [indices(loader) for loader in loaders]
    assert len({tuple(len(batch) for batch in share) for share in shares}) == 1
    assert all(len(share) == len(loader) > 0 for share, loader in zip(shares, loaders, strict=True))
    seen = [index for share in shares for index in flat(share)]
    assert len(set(seen)) == len(seen)
    lost = count % (loaders[0].global_batch_size if drop_last else world_size)
    assert len(seen) == count - lost


def test_two_ranks_see_together_what_one_sees():
    resident = resident_images(48)
    one = indices(training_loader(resident, 8), 2)
    two = [indices(training_loader(resident, 4, rank=rank, world_size=2), 2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("count", "batch_size"), [(50, 8), (49, 8), (2, 8), (24, 8), (1, 1)])
def test_evaluation_loses_and_repeats_nothing(count, batch_size, world_size):
    resident = resident_images(count)
    loaders = [evaluation_loader(resident, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [indices(loader) for loader in loaders]
    assert sorted([index for share in shares for index in flat(share)]) == list(range(count))
    assert all(flat(share) == sorted(flat(share)) for share in shares)
    assert [len(share) for share in shares] == [len(loader) for loader in loaders]
    assert all(batch for share in shares for batch in share)


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
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to world_size - 1 = 1, got 2"),
        ({"world_size": 11}, "10 images cannot be shared by 11 ranks"),
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
