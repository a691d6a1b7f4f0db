"""Mixed batches: those of a loader after mixup or CutMix, for the student and the teacher alike."""

from __future__ import annotations

from collections.abc import Iterator

from angularkd.data.loaders.batches import Batches
from angularkd.data.views.mixing import Mixing
from angularkd.data.views.tables import Views
from angularkd.types import Batch


class MixedBatches:
    """The batches of a loader, each mixed with itself.

    Args:
        batches: The loader.
        mixing: What is done to each batch, given the epoch and the number of the batch in it.
    """

    def __init__(self, batches: Batches, mixing: Mixing) -> None:
        self.batches = batches
        self.mixing = mixing

    @property
    def views(self) -> Views:
        """Return the augmentations of the images before they are mixed."""
        return self.batches.views

    @property
    def batch_size(self) -> int:
        """Return the number of samples of a full batch."""
        return self.batches.batch_size

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the mixed batches of an epoch, from the batch of number `first` on."""
        for number, batch in enumerate(self.batches.epoch(epoch, first), start=first):
            yield self.mixing(batch, epoch, number)

    def part_of_batches(self, number: int, count: int) -> MixedBatches:
        """Return batches that are one of `count` equal parts of these each; the images of a part are mixed with each other."""
        return MixedBatches(self.batches.part_of_batches(number, count), self.mixing)

    def part_of_samples(self, number: int, count: int) -> MixedBatches:
        """Return mixed batches of one of `count` parts of the samples."""
        return MixedBatches(self.batches.part_of_samples(number, count), self.mixing)
