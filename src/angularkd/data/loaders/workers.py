"""The streaming loader: batches decoded by worker processes as they are needed, for images that do not fit into memory.

A worker gets the rows of a batch and their boxes, and gives back pixels [batch, height, width, 3]: `scaled.read_scaled` says
which. All that is random was drawn before, in the table of the view, and what remains to be done (flips, crops, colours)
is done for the whole batch on the device, by the same `Views.apply` as for resident images. So the number of workers does
not change an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int, Int64

from angularkd.data.loaders.batches import OrderedBatches
from angularkd.data.loaders.order import EpochOrder, SampleGroups
from angularkd.data.loaders.pool import Request, WorkerPool
from angularkd.data.splits import Split
from angularkd.data.views.tables import Views, ViewTable, identity_views
from angularkd.errors import InputError
from angularkd.types import Batch


class StreamingLoader(OrderedBatches):
    """The batches of an epoch, decoded by the processes of a pool meanwhile; otherwise it is what `ResidentLoader` is.

    Every image is brought to `views.image_size`. Without resized_crop, images are those of `ResidentLoader`, to the bit; the
    box of a resized_crop is read from the original (`angularkd.data.scaled`). The order is that of `ResidentLoader`, but for
    parquet data whose row groups take more than their store keeps in memory: a shuffled epoch then reads them window by
    window (`order.EpochOrder`), so that each process reads each row group once.

    Args:
        split: The images.
        views: The augmentations of these images, and their size.
        batch_size, seed, shuffle, drop_last: As in `EpochOrder`.
        pool: The processes that decode; the split's store must be one of its own. One epoch of all its loaders is under way
            at a time.
        device: Where batches are made.

    Raises:
        InputError: Numbers are out of range, or do not fit together; and in an epoch, when an image cannot be decoded, as
            `load_resident` does, or a process was killed.
    """

    def __init__(
        self,
        split: Split,
        views: Views,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        pool: WorkerPool,
        device: torch.device | str = "cpu",
    ) -> None:
        self.order = EpochOrder(len(split), batch_size, seed, shuffle, drop_last, SampleGroups.of(split))
        if views.num_samples != len(split):
            raise InputError(
                f"views of {views.num_samples} images do not fit {len(split)} images; build them for this split."
            )
        self.views = views
        self.device = torch.device(device)
        self.pool = pool
        self._store = pool.number_of(split.store)
        self._store_rows = split.rows
        self._labels = torch.from_numpy(split.labels.copy()).to(self.device)
        self._views_without_box = replace(views, ops=tuple(op for op in views.ops if op != "resized_crop"))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the batch of number `first` on."""
        view = self.views.view_of(epoch)
        columns = dict(self.views.table(view).columns)
        box = columns.pop("box", None)
        table = ViewTable(columns).to(self.device)
        batches = list(self.order.batches(epoch, first))
        requests = _requests(
            batches, self._store, self._store_rows, self.views.image_size, None if box is None else box.numpy()
        )
        for samples, pixels in zip(batches, self.pool.read(requests), strict=False):  # asks for none beyond the last
            indices = torch.from_numpy(samples)
            on_device = indices.to(self.device, non_blocking=True)
            images = self._views_without_box.apply(pixels.to(self.device, non_blocking=True), table.rows(on_device))
            yield Batch(images, self._labels.index_select(0, on_device), indices, view)


def evaluation_stream(
    split: Split,
    image_size: tuple[int, int],
    batch_size: int,
    *,
    pool: WorkerPool,
    device: torch.device | str = "cpu",
) -> StreamingLoader:
    """Return a loader of every image once, fitted to `image_size`, in order."""
    return StreamingLoader(
        split,
        identity_views(len(split), image_size),
        batch_size,
        seed=0,
        shuffle=False,
        drop_last=False,
        pool=pool,
        device=device,
    )


def _requests(
    batches: list[Int64[np.ndarray, " _"]],
    store: int,
    store_rows: Int64[np.ndarray, " samples"],
    image_size: tuple[int, int],
    box: Int[np.ndarray, "samples 4"] | None,
) -> Iterator[Request]:
    """Yield the request of each batch. A loader's own method would keep its pool alive, which holds the requests."""
    for samples in batches:
        yield Request(store, store_rows[samples], image_size, None if box is None else box[samples])
