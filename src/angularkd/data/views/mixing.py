"""Mixup and CutMix: images and labels that are mixtures of two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from angularkd.data.views.seeds import mix
from angularkd.types import Batch


@dataclass(frozen=True)
class Mixing:
    """Mixes every batch with itself, moved on by one: x' = w x + (1 - w) roll(x), and the labels alike.

    It is torchvision's MixUp and CutMix, drawn from (seed, epoch, number of the batch) alone. Where both are given, each
    batch is mixed by one of them, either as likely.

    Attributes:
        mixup: alpha of w ~ Beta(alpha, alpha), one w a batch (Zhang et al., arXiv 1710.09412); 0 for none.
        cutmix: alpha likewise, w being the share of the image outside of one box, which stays (Yun et al., arXiv
            1905.04899); 0 for none.
        num_classes: Length of the soft labels.
        seed: What the draws depend on, beside the epoch and the batch.
    """

    mixup: float
    cutmix: float
    num_classes: int
    seed: int

    def __call__(self, batch: Batch, epoch: int, number: int) -> Batch:
        """Return a batch mixed: images as before, labels [batch, num_classes], no view.

        Args:
            batch: Images in 0..1 with class indices.
            epoch, number: The epoch, and the number of the batch in it, from 0.
        """
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
