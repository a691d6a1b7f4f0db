"""The resident loader: batches from images that are resident on the device, without processes, nothing image by image."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from angularkd.data.in_memory import ResidentImages
from angularkd.data.loaders.batches import OrderedBatches
from angularkd.data.loaders.order import EpochOrder
from angularkd.data.views.tables import Views, identity_views
from angularkd.errors import InputError
from angularkd.types import Batch


class ResidentLoader(OrderedBatches):
    """Cuts the batches of an epoch from resident images, augmented as `views` say.

    Epoch e gives view e (mod the number of views) in an order that depends on (seed, e) alone.

    Args:
        resident: Images and labels; the images move to `device` once.
        views: The augmentations of these images.
        batch_size, seed, shuffle, drop_last: As in `EpochOrder`.
        device: Where batches are made.

    Raises:
        InputError: Numbers are out of range, or do not fit together.
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
    ) -> None:
        self.order = EpochOrder(len(resident), batch_size, seed, shuffle, drop_last)
        if views.num_samples != len(resident) or tuple(views.image_size) != resident.image_size:
            raise InputError(
                f"views of {views.num_samples} images of size {views.image_size} do not fit {len(resident)} images of "
                f"size {resident.image_size}; build them for this split."
            )
        self.views = views
        self.device = torch.device(device)
        self._pixels = resident.pixels.to(self.device)
        self._labels = resident.labels.to(self.device)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the batch of number `first` on."""
        view = self.views.view_of(epoch)
        table = self.views.table(view).to(self.device)
        for samples in self.order.batches(epoch, first):
            indices = torch.from_numpy(samples)
            rows = indices.to(self.device, non_blocking=True)
            images = self.views.apply(self._pixels.index_select(0, rows), table.rows(rows))
            yield Batch(images, self._labels.index_select(0, rows), indices, view)


def evaluation_loader(
    resident: ResidentImages, batch_size: int, *, device: torch.device | str = "cpu"
) -> ResidentLoader:
    """Return a loader of every image once, as it is, in order."""
    return ResidentLoader(
        resident,
        identity_views(len(resident), resident.image_size),
        batch_size,
        seed=0,
        shuffle=False,
        drop_last=False,
        device=device,
    )
