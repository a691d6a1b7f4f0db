"""Batches from images that are resident on the device: no worker processes, nothing image by image."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from angularkd.data.in_memory import ResidentImages
from angularkd.data.loaders.order import EpochOrder
from angularkd.data.views.tables import Views, identity_views
from angularkd.errors import InputError
from angularkd.types import Batch


@runtime_checkable
class Batches(Protocol):
    """What a run draws its batches from: a `ResidentLoader`, or a `streaming.StreamingLoader`."""

    order: EpochOrder

    @property
    def views(self) -> Views:
        """The augmentations: epoch e shows view e, mod their number."""
        ...

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch over all ranks."""
        ...

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        ...

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, or those from `first_batch` on, for a run that goes on in the middle of one."""
        ...


class ResidentLoader:
    """Cuts the batches of an epoch from resident images, augmented as `views` say.

    Epoch e shows view e (mod the number of views) in an order that depends on (seed, e) alone.

    resident: images and labels; the images move to `device` once.
    batch_size, seed, shuffle, drop_last, rank, world_size: as in `EpochOrder`.

    Raises InputError when numbers are out of range or do not fit together.
    """

    def __init__(
        self,
        resident: ResidentImages,
        views: Views,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order = EpochOrder(len(resident), batch_size, seed, shuffle, drop_last, rank, world_size)
        if views.num_samples != len(resident) or tuple(views.image_size) != resident.image_size:
            raise InputError(
                f"views of {views.num_samples} images of size {views.image_size} do not fit {len(resident)} images of "
                f"size {resident.image_size}; build them for this split."
            )
        self.views = views
        self.device = torch.device(device)
        self._pixels = resident.pixels.to(self.device)
        self._labels = resident.labels.to(self.device)

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch over all ranks."""
        return self.order.global_batch_size

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        return len(self.order)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, or those from `first_batch` on, for a run that goes on in the middle of one."""
        view = self.views.view_of(epoch)
        table = self.views.table(view).to(self.device)
        for share in self.order.batches(epoch, first_batch):
            indices = torch.from_numpy(share)
            rows = indices.to(self.device, non_blocking=True)
            images = self.views.apply(self._pixels.index_select(0, rows), table.rows(rows))
            yield Batch(images, self._labels.index_select(0, rows), indices, view)


def evaluation_loader(
    resident: ResidentImages, batch_size: int, *, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1
) -> ResidentLoader:
    """Every image once, as it is, in order."""
    return ResidentLoader(
        resident,
        identity_views(len(resident), resident.image_size),
        batch_size,
        seed=0,
        shuffle=False,
        drop_last=False,
        device=device,
        rank=rank,
        world_size=world_size,
    )


def in_order(batches: Batches) -> Batches:
    """The same views of the same images, but all samples in their order, none left out."""
    ordered = copy.copy(batches)
    ordered.order = replace(batches.order, shuffle=False, drop_last=False)
    return ordered
