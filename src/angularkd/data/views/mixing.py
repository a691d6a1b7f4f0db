"""Mixup and CutMix: batches whose images and labels are mixtures of two, for the student and the teacher alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from angularkd.data.loaders.resident import Batches
from angularkd.data.views.seeds import mix
from angularkd.data.views.tables import Views
from angularkd.types import Batch


@dataclass(frozen=True)
class Mixing:
    """Mixes every batch with itself, moved on by one: x' = w x + (1 - w) roll(x), and the labels alike.

    mixup:  alpha of w ~ Beta(alpha, alpha), one w a batch (Zhang et al., arXiv 1710.09412); 0 for none.
    cutmix: alpha likewise, w being the share of the image that is kept outside of one box (Yun et al., arXiv
            1905.04899); 0 for none. Where both are given, each batch is mixed by one of them, either as likely.
    num_classes: length of the soft labels.

    It is torchvision's MixUp and CutMix, drawn from (seed, epoch, number of the batch) alone.
    """

    mixup: float
    cutmix: float
    num_classes: int
    seed: int

    def __call__(self, batch: Batch, epoch: int, number: int) -> Batch:
        from torchvision.transforms import v2

        ways: list[v2.Transform] = []
        if self.mixup:
            ways.append(v2.MixUp(alpha=self.mixup, num_classes=self.num_classes))
        if self.cutmix:
            ways.append(v2.CutMix(alpha=self.cutmix, num_classes=self.num_classes))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix("mixing", self.seed, epoch, number) % 2**63)
            way = ways[int(torch.randint(len(ways), ()))]
            images, labels = way(batch.images, batch.labels)
        return replace(batch, images=images, labels=labels, view=None)


class MixedBatches:
    """The batches of a loader, mixed."""

    def __init__(self, batches: Batches, mixing: Mixing) -> None:
        self.batches = batches
        self.mixing = mixing
        self.order = batches.order

    @property
    def views(self) -> Views:
        return self.batches.views

    @property
    def global_batch_size(self) -> int:
        return self.batches.global_batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches.epoch(epoch, first_batch), start=first_batch):
            yield self.mixing(batch, epoch, number)
