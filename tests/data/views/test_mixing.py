"""Mixup and CutMix: what is mixed with what, reproducibly, and that student and teacher see the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from angularkd import Distiller, InputError
from angularkd.data import MixedBatches, Mixing, ResidentImages, ResidentLoader, Views, in_order
from angularkd.losses import check_soft_labels, read_terms

CLASSES = 5


def loader(count: int = 24, batch_size: int = 8) -> ResidentLoader:
    pixels = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resident = ResidentImages(pixels, torch.arange(count) % CLASSES)
    return ResidentLoader(resident, Views(("flip",), count, (8, 8)), batch_size, seed=3, shuffle=True, drop_last=True)


def mixed(mixup: float = 0.0, cutmix: float = 0.0, seed: int = 0) -> MixedBatches:
    return MixedBatches(loader(), Mixing(mixup, cutmix, CLASSES, seed))


def test_mixup_adds_neighbours_and_their_labels_with_one_weight() -> None:
    weights = []
    for plain, batch in zip(loader().epoch(0), mixed(mixup=1.0).epoch(0), strict=True):
        onehot = torch.nn.functional.one_hot(plain.labels, CLASSES).float()
        neighbours, theirs = plain.images.roll(1, 0), onehot.roll(1, 0)
        differing = (onehot != theirs).any(1)
        row = differing.nonzero()[0, 0]
        weight = batch.labels[row][plain.labels[row]].item()
        torch.testing.assert_close(batch.images, weight * plain.images + (1 - weight) * neighbours)
        torch.testing.assert_close(batch.labels, weight * onehot + (1 - weight) * theirs)
        assert torch.equal(batch.indices, plain.indices)
        weights.append(weight)
    assert len({round(weight, 6) for weight in weights}) == 3


def test_cutmix_pastes_one_box_and_labels_count_by_area() -> None:
    pasted = 0
    for epoch in range(4):
        for plain, batch in zip(loader().epoch(epoch), mixed(cutmix=1.0).epoch(epoch), strict=True):
            neighbours = plain.images.roll(1, 0)
            own = (batch.images == plain.images).all(1)
            assert ((batch.images == neighbours).all(1) | own).all()
            box = ~own.all(0)
            rows, columns = box.any(1).sum().item(), box.any(0).sum().item()
            assert box.sum().item() == rows * columns
            weight = 1 - rows * columns / 64
            onehot = torch.nn.functional.one_hot(plain.labels, CLASSES).float()
            torch.testing.assert_close(batch.labels, weight * onehot + (1 - weight) * onehot.roll(1, 0))
            pasted += rows > 0
    assert pasted > 5


def test_both_take_turns_and_every_batch_is_mixed_by_one() -> None:
    boxes = []
    for epoch in range(6):
        for plain, batch in zip(loader().epoch(epoch), mixed(1.0, 1.0).epoch(epoch), strict=True):
            own = (batch.images == plain.images) | (batch.images == plain.images.roll(1, 0))
            boxes.append(own.all().item())
    assert 3 < sum(boxes) < 15


def test_mixing_depends_on_seed_epoch_and_number_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    whole = [batch.images for batch in mixed(1.0, 1.0).epoch(2)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = [batch.images for batch in mixed(1.0, 1.0).epoch(2)]
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    other = next(mixed(1.0, 1.0, seed=1).epoch(2)).images
    assert not torch.equal(whole[0], other)


def test_what_loops_need_is_passed_on() -> None:
    batches = mixed(1.0)
    assert len(batches) == 3 and batches.batch_size == 8 and batches.views.count == 2


def test_mixed_batches_have_one_order() -> None:
    with pytest.raises(TypeError, match="got MixedBatches"):
        in_order(mixed(1.0))


def test_teacher_and_student_see_the_very_same_mixed_image() -> None:
    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, CLASSES)
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(images.clone())
            return self.head(self.stage(images).mean((2, 3)))

    teacher, student = Spy(), Spy()
    distiller = Distiller(teacher, student, {"ce": 1.0, "kd": 1.0, "amd": 1.0}, pairs="stage:stage")
    for batch in mixed(1.0, 1.0).epoch(0):
        distiller(batch.images, batch.labels, batch.indices)
        assert torch.equal(teacher.seen[-1], student.seen[-1]) and torch.equal(student.seen[-1], batch.images)


@pytest.mark.parametrize("name", ["dkd", "nkd", "crd"])
def test_losses_that_need_one_class_are_named(name) -> None:
    with pytest.raises(InputError, match=f"loss '{name}' needs one class a sample"):
        check_soft_labels(read_terms({"ce": 1.0, name: 1.0}))
    check_soft_labels(read_terms({"ce": 1.0, "kd": 1.0, "amd": 1.0, "sp": 1.0}))
