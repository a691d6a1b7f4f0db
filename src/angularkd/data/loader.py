"""Batches from images that are resident on the device: no worker processes, nothing image by image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64

from angularkd.data.resident import ResidentImages
from angularkd.data.seeds import permutation
from angularkd.data.views import Views, identity_views
from angularkd.errors import InputError
from angularkd.types import Batch


class ResidentLoader:
    """Cuts the batches of an epoch from resident images, augmented as `views` say.

    Epoch e shows view e (mod the number of views) in an order that depends on (seed, e) alone. With several ranks, the
    order is cut into global batches of batch_size * world_size samples, and rank r takes every world_size-th sample of
    each, from the r-th on: two ranks with batch size b see together what one rank with batch size 2 b sees.

    resident:   images and labels; the images move to `device` once.
    batch_size: samples a batch, on each rank; cut to the split's size where that is smaller.
    shuffle:    True for training: then all ranks have equally many batches of equal size, for which the last global
                batch loses up to world_size - 1 samples. False for evaluation: samples in order, each exactly once
                over all ranks, of which some may have one batch or one sample more.
    drop_last:  leave out the last global batch when it is not full.

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
        if batch_size < 1:
            raise InputError(f"the batch size must be at least 1, got {batch_size}.")
        if not 0 <= rank < world_size:
            raise InputError(f"the rank must be from 0 to world_size - 1 = {world_size - 1}, got {rank}.")
        if shuffle and len(resident) < world_size:
            raise InputError(f"{len(resident)} images cannot be shared by {world_size} ranks; use fewer processes.")
        if views.num_samples != len(resident) or tuple(views.image_size) != resident.image_size:
            raise InputError(
                f"views of {views.num_samples} images of size {views.image_size} do not fit {len(resident)} images of "
                f"size {resident.image_size}; build them for this split."
            )
        self.views = views
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.device = torch.device(device)
        self.global_batch_size = min(batch_size, max(1, len(resident) // world_size)) * world_size
        self._pixels = resident.pixels.to(self.device)
        self._labels = resident.labels.to(self.device)

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        full, left_over = divmod(len(self._pixels), self.global_batch_size)
        if self.drop_last:
            return full
        if self.shuffle:
            return full + (left_over >= self.world_size)
        return full + (left_over > self.rank)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, or those from `first_batch` on, for a run that goes on in the middle of one."""
        view = self.views.view_of(epoch)
        table = self.views.table(view).to(self.device)
        order = self._order(epoch)
        for number in range(first_batch, len(self)):
            indices = torch.from_numpy(self._share(order, number)).to(self.device)
            images = self.views.apply(self._pixels.index_select(0, indices), table.rows(indices))
            yield Batch(images, self._labels.index_select(0, indices), indices, view)

    def _order(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        if self.shuffle:
            return permutation(len(self._pixels), "order", self.seed, epoch)
        return np.arange(len(self._pixels), dtype=np.int64)

    def _share(self, order: Int64[np.ndarray, " samples"], number: int) -> Int64[np.ndarray, " batch"]:
        """This rank's indices of one global batch."""
        chunk = order[number * self.global_batch_size : (number + 1) * self.global_batch_size]
        if self.shuffle:
            chunk = chunk[: len(chunk) - len(chunk) % self.world_size]
        return np.ascontiguousarray(chunk[self.rank :: self.world_size])


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
