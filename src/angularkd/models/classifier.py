"""A classifier ready to use: the module, the classes it tells apart, and the preprocessing it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError, nearest
from angularkd.features import Trace
from angularkd.models.class_mapping import ClassMapping
from angularkd.system.compiling import made_once

Size = tuple[int, int]
"""Height and width in pixels."""

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of each channel, by name."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model needs done to images in 0..1: bring them to `size` (None: leave it), subtract `mean`, divide by `std`.

    Calling it maps [batch, 3, height, width] to the same, resized bilinearly with antialiasing where the size differs.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size | None = None
    source: str = ""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 new_height new_width"]:
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return (images - _constant(self.mean, images.device)) / _constant(self.std, images.device)

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        size = f", resized to {self.size[0]}x{self.size[1]}" if self.size else ""
        return f"mean {mean}, std {std}{size}" + (f" ({self.source})" if self.source else "")


def predict(
    module: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    preprocessing: Callable[[Tensor], Tensor] | None = None,
    mapping: ClassMapping | None = None,
) -> Any:
    """Return the logits of images: preprocessed before the module, and mapped to other classes behind it.

    Args:
        module: from preprocessed images to logits [batch, classes].
        images: in 0..1.
        preprocessing: None where the module takes the images as they are.
        mapping: None where the module's classes are the right ones; its output is then returned as it is.
    """
    output = module(images if preprocessing is None else preprocessing(images))
    return output if mapping is None else mapping(output)


@dataclass(frozen=True)
class Classifier:
    """A model ready to use.

    Attributes:
        spec: the SPEC that was asked for.
        module: from preprocessed images to logits [batch, num_classes].
        num_classes: of the module's own logits; 0 where it has no classification layer and gives embeddings [batch, dim].
        preprocessing: None when nothing is known of it: the training images' own statistics are then used.
        classes: names in the order of the module's logits, where they are known.
        pretrained: whether it has trained weights.
        architecture: the SPEC that builds the bare module, where that is another.
        image_size: of the images that it was trained on, where that is known.
        native_size: that the architecture is made for, where that is known.
        mapping: from its classes to the data's, where these are others.
        notes: what was decided about it, for the plan.
        trace: what one forward of the module showed, once it is fitted to the data's images.
    """

    spec: str
    module: nn.Module
    num_classes: int
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    pretrained: bool = False
    architecture: str = ""
    image_size: Size | None = None
    native_size: Size | None = None
    mapping: ClassMapping | None = None
    notes: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, repr=False)

    @property
    def parameters(self) -> int:
        """Return how many numbers the model has."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def has_head(self) -> bool:
        """Return whether it tells apart classes; what has no classification layer can only teach, by its embeddings."""
        return self.num_classes > 0

    @property
    def outputs(self) -> int:
        """Return how many classes it predicts, once they are mapped."""
        return self.num_classes if self.mapping is None else len(self.mapping)

    def predict(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch outputs"]:
        """Return logits of images in 0..1, preprocessed before the module and mapped behind it."""
        assert self.preprocessing is not None
        logits: Tensor = predict(self.module, images, self.preprocessing, self.mapping)
        return logits


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation from a name in NORMALIZATIONS or from 'm,m,m/s,s,s'.

    Raises:
        InputError: for any other text, and for a standard deviation that is not positive.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(
            f"normalization '{text}' is not known.{nearest(text, NORMALIZATIONS)} "
            f"Use {', '.join(NORMALIZATIONS)}, or six numbers m,m,m/s,s,s"
        )
    return mean, std


@made_once
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one number a channel, on the device once and for all: no copy, hence no wait, in a step."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
