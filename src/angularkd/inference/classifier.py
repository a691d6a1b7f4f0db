"""A classifier of photographs: from images in whatever form to class names and probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from angularkd.errors import InputError
from angularkd.inference.images import as_images, is_one
from angularkd.inference.signature import Signature

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        classes: all names, the most probable first.
        probabilities: of these, in their order.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def name(self) -> str:
        """Return the name of the most probable class."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """Return the probability of the most probable class."""
        return self.probabilities[0]

    def top(self, count: int) -> dict[str, float]:
        """Return the most probable classes, with their probabilities."""
        return dict(zip(self.classes[:count], self.probabilities[:count], strict=True))


@dataclass(frozen=True)
class ImageClassifier:
    """A student, or a file that was exported of one, ready to classify images.

    Attributes:
        source: the run or the file.
        signature: its classes, and what its network takes and gives.
        outputs: from images in 0..1 at the signature's size to logits, or probabilities, as the signature says.
        calibrated: whether logits are divided by the signature's temperature first.
    """

    source: str
    signature: Signature
    outputs: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch classes"]]
    calibrated: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of `probabilities`."""
        return self.signature.classes

    @property
    def temperature(self) -> float:
        """Return by what logits are divided before they become probabilities; 1 leaves these as the network gave them."""
        return self.signature.temperature if self.calibrated else 1.0

    def probabilities(self, images: Any, batch_size: int = BATCH_SIZE) -> Float[Tensor, "batch classes"]:
        """Return the probability of each class for each image.

        Args:
            images: one image or several: paths, PIL images, uint8 arrays [height, width, 3], tensors [3, height, width] in 0..1, or
                batches [batch, ...] of either. All are brought to the network's size as in evaluation.
            batch_size: how many are decoded and classified at once.

        Raises:
            InputError: for what is no image.
        """
        if batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {batch_size}: give more")
        several = [images] if is_one(images) else images
        parts = range(0, max(len(several), 1), batch_size)
        found = [self._probabilities(several[start : start + batch_size]) for start in parts]
        return torch.cat(found)

    def predict(self, images: Any, batch_size: int = BATCH_SIZE) -> Any:
        """Return the `Prediction` of an image, or a list of them for several; arguments and errors are those of `probabilities`."""
        predictions = []
        for row in self.probabilities(images, batch_size):
            order = row.argsort(descending=True, stable=True).tolist()
            predictions.append(Prediction(tuple(self.classes[i] for i in order), tuple(row[order].tolist())))
        return predictions[0] if is_one(images) else predictions

    def _probabilities(self, images: Any) -> Tensor:
        outputs = self.outputs(as_images(images, self.signature.image_size))
        return self.signature.probabilities(outputs, self.calibrated)
