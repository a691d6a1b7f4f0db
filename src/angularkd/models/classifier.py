"""A classifier ready to use: the module, the classes it tells apart, and the preprocessing it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from angularkd.features import Trace, heads_of
from angularkd.models.class_mapping import ClassMapping
from angularkd.models.preprocessing import Preprocessing, Size


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
        mapping: None where the module's classes are the right ones.

    Returns:
        The logits inside of the module's output (`angularkd.features.heads_of`); the output itself where it holds none.
    """
    logits, _ = heads_of(module(images if preprocessing is None else preprocessing(images)))
    return logits if mapping is None or not isinstance(logits, Tensor) else mapping(logits)


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
        temperature: by which its logits are divided for calibrated probabilities, where that is known; not of mapped classes.
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
    temperature: float | None = None

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

    def predict(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch ..."]:
        """Return logits of images in 0..1, preprocessed before the module and mapped behind it."""
        assert self.preprocessing is not None
        logits: Tensor = predict(self.module, images, self.preprocessing, self.mapping)
        return logits
