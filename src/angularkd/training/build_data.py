"""From a configuration to its images: the data set at the right size, its splits in memory or decoded by workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from angularkd.config.commands import DataOptions, Recipe
from angularkd.data.in_memory import ResidentImages, channel_stats, load_resident
from angularkd.data.loaders.resident import Batches, ResidentLoader, evaluation_loader
from angularkd.data.loaders.workers import StreamingLoader, evaluation_stream, fits_memory, sampled_channel_stats
from angularkd.data.opening import DataSet, open_data
from angularkd.data.screening import SPLITS, without_bad_images
from angularkd.data.splits import Split, readable_size, readable_sizes
from angularkd.data.views.mixing import MixedBatches, Mixing
from angularkd.data.views.tables import Views
from angularkd.models.classifier import Classifier

PHOTOGRAPH_SIZE = (224, 224)
"""Size of images of unequal size, unless a network made for CIFAR looks at them."""
CIFAR_SIZE = (32, 32)


@dataclass(frozen=True)
class Data:
    """A data set with its splits in memory as they are asked for, or decoded by workers as they are needed."""

    dataset: DataSet
    image_size: tuple[int, int] | None
    device: torch.device
    loader: str = "auto"
    workers: int | None = None

    def in_memory(self, split: str) -> bool:
        """Whether a split is to be decoded into memory, rather than by workers as it is needed."""
        images, size = getattr(self.dataset, split), self.size_of(split)
        return self.loader != "workers" and (self.loader != "auto" or fits_memory(len(images), size, self.device))

    def load(self, split: str) -> ResidentImages | None:
        """Decode one split; None where workers are to do that."""
        return load_resident(getattr(self.dataset, split), self.image_size) if self.in_memory(split) else None

    def size_of(self, split: str) -> tuple[int, int]:
        """(height, width) of its images."""
        return self.image_size or getattr(self.dataset, split).size(0)

    def batches(self, split: str, batch_size: int) -> Batches:
        """A split as it is, in order."""
        resident = self.load(split)
        if resident is not None:
            return evaluation_loader(resident, batch_size, device=self.device)
        images, size = getattr(self.dataset, split), self.size_of(split)
        return evaluation_stream(images, size, batch_size, device=self.device, workers=self.workers)

    def some(self, split: str, count: int) -> Data:
        """With at most so many images of a split, evenly spread over it."""
        images: Split = getattr(self.dataset, split)
        if len(images) <= count:
            return self
        rows = np.linspace(0, len(images) - 1, count, dtype=np.int64)
        return replace(self, dataset=replace(self.dataset, **{split: images.select(rows)}))  # type: ignore[arg-type]

    def channel_stats(self, train: ResidentImages | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training images, of a sample of them where they are not in memory."""
        if train is not None:
            return channel_stats(train)
        return sampled_channel_stats(self.dataset.train, self.size_of("train"))


def open_dataset(config: DataOptions, image_size: tuple[int, int] | None = None) -> DataSet:
    """The data set of a configuration, its splits drawn, nothing decoded yet."""
    return open_data(
        config.data,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        image_size=image_size or as_size(config.image_size),
    )


def sized(
    config: DataOptions,
    dataset: DataSet,
    device: torch.device,
    model: Classifier,
    teacher: Classifier | None,
    looked_at: Collection[str] = SPLITS,
) -> Data:
    """The data at the size asked for, else at that which the models were trained on, else at the images' own where they
    look alike, else at what such a model is made for; without bad images in the splits looked at where they are skipped."""
    size = as_size(config.image_size) or model.image_size or (teacher.image_size if teacher is not None else None)
    if size is None and not all(_alike(split) for split in (dataset.train, dataset.val, dataset.test)):
        size = CIFAR_SIZE if model.spec.startswith("cifar/") else PHOTOGRAPH_SIZE
    if size is not None and config.image_size is None and size != readable_size(dataset.train):
        dataset = open_dataset(config, size)
    if config.on_bad_image == "skip":
        dataset = without_bad_images(dataset, looked_at)
    return Data(dataset, size, device, config.loader, config.workers)


def _alike(split: Split, looks: int = 200) -> bool:
    """Whether all of some images, evenly spread over the split, are of one size."""
    rows = range(0, len(split), max(1, len(split) // looks))
    return len(readable_sizes(split, rows)) <= 1


def as_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def training_batches(data: Data, train: ResidentImages | None, views: Views, config: Recipe) -> Batches:
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
        device=data.device,
        workers=data.workers,
    )


def noted(data: Data, batches: Mapping[str, Batches]) -> Data:
    """The data, its notes saying which splits are not in memory, and why."""
    streams = {split: loader for split, loader in batches.items() if isinstance(loader, StreamingLoader)}
    if not streams:
        return data
    workers = next(iter(streams.values())).workers
    who = f"{workers} worker processes" if workers > 1 else "a worker process" if workers else "the run's own process"
    why = "as --loader workers asks" if data.loader == "workers" else "since they do not fit into memory"
    note = f"{', '.join(streams)}: images are decoded as they are needed, by {who}, {why}"
    return replace(data, dataset=replace(data.dataset, notes=(*data.dataset.notes, note)))


def mixed(batches: Batches, config: Recipe, classes: int) -> Batches:
    """The batches, mixed if that was asked for."""
    if not config.mixup and not config.cutmix:
        return batches
    return MixedBatches(batches, Mixing(config.mixup, config.cutmix, classes, config.seed))
