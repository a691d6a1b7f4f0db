"""From a configuration to its images: the data set at the right size, its splits in memory or decoded by workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from angularkd.config import DataOptions, Recipe
from angularkd.data import (
    SPLITS,
    Batches,
    DataSet,
    MixedBatches,
    Mixing,
    ResidentImages,
    ResidentLoader,
    Split,
    StreamingLoader,
    Views,
    WorkerPool,
    channel_stats,
    evaluation_loader,
    evaluation_stream,
    fits_memory,
    open_data,
    readable_size,
    readable_sizes,
    sampled_channel_stats,
    without_bad_images,
)
from angularkd.errors import InputError
from angularkd.models import Classifier

PHOTOGRAPH_SIZE = (224, 224)
"""Size of images of unequal size, unless they are for a network made for CIFAR."""
CIFAR_SIZE = (32, 32)
ALIKE_IMAGES = 200
"""Images of a split whose sizes are compared."""


@dataclass(frozen=True)
class Data:
    """A data set with its splits in memory as they are asked for, or decoded by workers as they are needed.

    Attributes:
        dataset: The splits. What is decoded of them is shared by all `Data` of this data set.
        image_size: (height, width) of every image; None for their own.
        device: Where batches are made.
        pool: The processes that decode what is not in memory.
        loader: "resident", "workers", or "auto" for what memory allows.
    """

    dataset: DataSet
    image_size: tuple[int, int] | None
    device: torch.device
    pool: WorkerPool
    loader: str = "auto"

    def in_memory(self, split: str) -> bool:
        """Say whether a split is, or is to be, decoded into memory, rather than by workers as it is needed."""
        if not len(self.dataset.splits[split]):
            return False
        if self.loader != "auto":
            return self.loader != "workers"
        images = self.dataset.splits[split]
        if self.dataset.decoded.holds(split, images, self.image_size):
            return True
        return fits_memory(len(images), self.size_of(split), self.device)

    def load(self, split: str) -> ResidentImages | None:
        """Return one split decoded, once for all who ask; None where workers are to decode it."""
        if not self.in_memory(split):
            return None
        return self.dataset.decoded.load(split, self.dataset.splits[split], self.image_size)

    def size_of(self, split: str) -> tuple[int, int]:
        """Return the (height, width) of a split's images."""
        images = self.dataset.splits[split]
        return self.image_size or readable_size(images if len(images) else self.dataset.train)

    def batches(self, split: str, batch_size: int) -> Batches:
        """Return the batches of a split as it is, in order."""
        resident = self.load(split)
        if resident is not None:
            return evaluation_loader(resident, batch_size, device=self.device)
        images, size = self.dataset.splits[split], self.size_of(split)
        return evaluation_stream(images, size, batch_size, pool=self.pool, device=self.device)

    def some(self, split: str, count: int) -> Data:
        """Return the data with at most so many images of a split, evenly spread over it."""
        images = self.dataset.splits[split]
        if len(images) <= count:
            return self
        self.load(split)  # from which the images are selected
        rows = np.linspace(0, len(images) - 1, count, dtype=np.int64)
        return replace(self, dataset=replace(self.dataset, **{split: images.select(rows)}))  # type: ignore[arg-type]

    def channel_stats(self, train: ResidentImages | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of the training images, of a sample of them where they are not in memory.

        Args:
            train: The training images, if they are in memory.
        """
        if train is not None:
            return channel_stats(train)
        return sampled_channel_stats(self.dataset.train, self.size_of("train"))

    def release(self) -> None:
        """Drop what is decoded, beside what loaders cut their batches from. To be called when all loaders are built."""
        self.dataset.decoded.release()


def open_dataset(config: DataOptions) -> DataSet:
    """Open the data set of a configuration and settle its splits; nothing is decoded yet."""
    return open_data(
        config.data,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        image_size=as_size(config.image_size),
    )


def sized(
    config: DataOptions,
    dataset: DataSet,
    device: torch.device,
    model: Classifier,
    teacher: Classifier | None,
    needed: Collection[str] = SPLITS,
) -> Data:
    """Return the data at the size that is asked for, else at that which the models were trained on, else at the images'
    own where that is one, else at what such a model is made for.

    Neither the data set nor an image in memory is read twice: calls with one data set share what they decode.

    Args:
        config: The configuration; its `on_bad_image` says whether images that cannot be decoded are left out.
        dataset: What `open_dataset` returned for it.
        device: Where batches are made.
        model: The model that the images are for.
        teacher: Its teacher, if it has one.
        needed: The splits that are going to be used, which are searched for bad images.

    Raises:
        InputError: No image of a split can be decoded, or one takes too much memory.
    """
    size = as_size(config.image_size) or model.image_size or (teacher.image_size if teacher is not None else None)
    if size is None and not all(map(_alike, dataset.splits.values())):
        size = CIFAR_SIZE if model.spec.startswith("cifar/") else PHOTOGRAPH_SIZE
    if size is not None and config.image_size is None:
        dataset = dataset.at_size(size)
    dataset.decoded.keep_size(size)
    stores = [split.store for split in dataset.splits.values()]
    pool = WorkerPool(stores, config.workers, pin_memory=device.type == "cuda")
    data = Data(dataset, size, device, pool, config.loader)
    return _without_bad_images(data, needed) if config.on_bad_image == "skip" else data


def as_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (height, width) for a size that may be one number for both."""
    return (size, size) if isinstance(size, int) else size


def training_batches(data: Data, train: ResidentImages | None, views: Views, config: Recipe) -> Batches:
    """Return the shuffled, augmented batches of the training split; `train` holds its images if they are in memory."""
    drop_last = views.num_samples > config.batch_size
    if train is not None:
        return ResidentLoader(
            train, views, config.batch_size, seed=config.seed, shuffle=True, drop_last=drop_last, device=data.device
        )
    return StreamingLoader(
        data.dataset.train,
        views,
        config.batch_size,
        seed=config.seed,
        shuffle=True,
        drop_last=drop_last,
        pool=data.pool,
        device=data.device,
    )


def noted(data: Data, batches: Mapping[str, Batches]) -> Data:
    """Return the data, its notes saying which splits are not in memory, and why. `batches` are those of each split."""
    streams = [split for split, loader in batches.items() if isinstance(loader, StreamingLoader) and len(loader)]
    if not streams:
        return data
    workers = data.pool.workers
    who = f"{workers} worker processes" if workers > 1 else "a worker process" if workers else "the run's own process"
    why = "as `loader=workers` asks" if data.loader == "workers" else "since they do not fit into memory"
    note = f"{', '.join(streams)}: images are decoded as they are needed, by {who}, {why}"
    return replace(data, dataset=replace(data.dataset, notes=(*data.dataset.notes, note)))


def mixed(batches: Batches, config: Recipe, classes: int) -> Batches:
    """Return the batches, mixed where `mixup` or `cutmix` asks for that."""
    if not config.mixup and not config.cutmix:
        return batches
    return MixedBatches(batches, Mixing(config.mixup, config.cutmix, classes, config.seed))


def _alike(split: Split) -> bool:
    """Say whether some images, evenly spread over the split, are of one size."""
    rows = range(0, len(split), max(1, len(split) // ALIKE_IMAGES))
    return len(readable_sizes(split, rows)) <= 1


def _without_bad_images(data: Data, splits: Collection[str]) -> Data:
    """Leave out the images that cannot be decoded; a split that is to be in memory is decoded into it meanwhile."""
    bad = {
        name: data.dataset.decoded.bad_images(name, data.dataset.splits[name], data.image_size, _fits(data, name))
        for name in splits
        if len(data.dataset.splits[name])
    }
    return replace(data, dataset=without_bad_images(data.dataset, bad))


def _fits(data: Data, split: str) -> bool:
    try:
        return data.in_memory(split)
    except InputError:  # not even a header can be read: the search says what is wrong
        return False
