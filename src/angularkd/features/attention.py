"""Attention mechanisms: which map of a stage the student should match, and the table of them.

A mechanism is a frozen, hashable callable that gives maps [batch, height, width]. Being hashable lets one map serve every
loss that asks for it, and lets a hook keep the map alone and drop the features. Its `source` says what it is called with:

    "features"   the stage's features [batch, channel, height, width]
    "gradients"  the features, and the gradient of a class's score with respect to them
    "tokens"     the attention that the class token pays to every patch, already laid out as a map
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from angularkd.errors import InputError, nearest
from angularkd.features.attention_maps import widen
from angularkd.types import Reduction, Source


@dataclass(frozen=True)
class _OfFeatures:
    """What mechanisms that need nothing but a stage's features have in common: a power, by which they weigh large ones."""

    source: ClassVar[Source] = "features"
    signals: ClassVar[frozenset[str]] = frozenset()
    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power >= 1:
            raise InputError(f"power must be at least 1 for a finite gradient at zero, got {self.power}: use power=2")

    def _powered(self, features: Tensor) -> Tensor:
        wide = widen(features)
        return wide.square() if self.power == 2 else wide.abs().pow(self.power)


@dataclass(frozen=True)
class PowerMap(_OfFeatures):
    """Sum over the channels of |A|**power, in float32 at least (Zagoruyko & Komodakis, arXiv 1612.03928).

    P[b, h, w] = sum_c |A[b, c, h, w]| ** power. Half-precision features are widened first: their squares overflow.
    """

    def __call__(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch height width"]:
        """Return the map of each sample's features."""
        return self._powered(features).sum(dim=1)


@dataclass(frozen=True)
class MaxMap(_OfFeatures):
    """Largest |A|**power over the channels, in float32 at least (the same paper's F_max).

    P[b, h, w] = max_c |A[b, c, h, w]| ** power. Where several channels share the maximum they share its gradient.
    """

    def __call__(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch height width"]:
        """Return the map of each sample's features."""
        return self._powered(features).amax(dim=1)


@dataclass(frozen=True)
class TokenNorm(_OfFeatures):
    """Length of each position's feature vector, the saliency of a token in a transformer, in float32 at least.

    P[b, h, w] = ( sum_c |A[b, c, h, w]| ** power ) ** (1 / power). Its gradient at a vector of zeros is taken as zero.
    """

    def __call__(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch height width"]:
        """Return the map of each sample's features."""
        return torch.linalg.vector_norm(widen(features), ord=self.power, dim=1)


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM: where the features speak for a class (Selvaraju et al., arXiv 1610.02391), in float32 at least.

    P[b, h, w] = max(0, sum_c a[b, c] * A[b, c, h, w]),   a[b, c] = mean over h, w of d z_y / d A[b, c, h, w]

    with z_y the model's own logit of class y. With soft labels, z_y is their weighted sum of the logits.
    The student's map is differentiated again in training, which roughly doubles the cost of its step.

    Args:
        of: whose class y is: "label", the sample's own, or "teacher", the one that the teacher predicts, for both models.
    """

    source: ClassVar[Source] = "gradients"
    of: str = "label"

    @property
    def signals(self) -> frozenset[str]:
        """Return what it needs beside the features: both models must tell apart the same classes."""
        return frozenset({"student_logits", "teacher_logits"} | ({"labels"} if self.of == "label" else set()))

    def class_weights(self, logits: Tensor, labels: Tensor | None, teacher_logits: Tensor) -> Tensor:
        """Return how much each logit counts in the score z_y, [batch, classes].

        Args:
            logits: the model's own, [batch, classes].
            labels: class indices [batch] or soft labels [batch, classes]; None for the teacher's classes.
            teacher_logits: [batch, classes].
        """
        classes = teacher_logits.argmax(dim=1) if self.of == "teacher" or labels is None else labels
        return classes.to(logits.dtype) if classes.is_floating_point() else F.one_hot(classes, logits.shape[1])

    def __call__(
        self,
        features: Float[Tensor, "batch channel height width"],
        gradients: Float[Tensor, "batch channel height width"],
    ) -> Float[Tensor, "batch height width"]:
        """Return the map of each sample: of its features, by the gradients of its score z_y with regard to them."""
        weights = widen(gradients).mean(dim=(2, 3), keepdim=True)
        return (weights * widen(features)).sum(dim=1).relu()


@dataclass(frozen=True)
class ClassToken:
    """The attention that a transformer's class token pays to each patch, averaged over the heads, in float32 at least.

    P[b, patch] = mean over heads of softmax(q_class k^T / sqrt(d))[patch], of the stage's own block; or, with
    rollout, the class token's row of the product of (attention + identity) / 2 over all blocks up to the stage's
    (Abnar & Zuidema, arXiv 2005.00928).
    """

    source: ClassVar[Source] = "tokens"
    signals: ClassVar[frozenset[str]] = frozenset()
    rollout: bool = False

    def __call__(self, attention: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
        """Return the map of each sample: the attention that was extracted, in float32 at least."""
        return widen(attention)


@dataclass(frozen=True)
class Several:
    """The maps of several mechanisms, one after the other for each sample: [batch * mechanisms, height, width]."""

    source: ClassVar[Source] = "features"
    signals: ClassVar[frozenset[str]] = frozenset()
    mechanisms: tuple[PowerMap | MaxMap | TokenNorm, ...]

    def __call__(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "maps height width"]:
        """Return the maps of each sample's features, one for each mechanism."""
        return torch.stack([mechanism(features) for mechanism in self.mechanisms], dim=1).flatten(0, 1)


@dataclass(frozen=True)
class Attention:
    """A row of the table: how the mechanism is built (from a power, or from nothing), and what it is."""

    build: Callable[..., Reduction]
    summary: str
    takes_power: bool = False


ATTENTIONS: dict[str, Attention] = {
    "power": Attention(PowerMap, "sum over the channels of |A|^power", takes_power=True),
    "max": Attention(MaxMap, "largest |A|^power over the channels", takes_power=True),
    "token_norm": Attention(TokenNorm, "length of each position's feature vector", takes_power=True),
    "gradcam": Attention(lambda: GradCAM("label"), "Grad-CAM of the sample's own class"),
    "gradcam_teacher": Attention(lambda: GradCAM("teacher"), "Grad-CAM of the class that the teacher predicts"),
    "class_token": Attention(lambda: ClassToken(), "a transformer block's attention from the class token to the patches"),
    "rollout": Attention(lambda: ClassToken(rollout=True), "the same, rolled out over all blocks up to this one"),
}  # fmt: skip


def mechanism(name: str, power: float | Sequence[float] = 2.0) -> Reduction:
    """Build the attention mechanism of a name in ATTENTIONS; of several powers, one that gives all their maps.

    Raises:
        InputError: for an unknown name, and for a power where the mechanism takes none.
    """
    if name not in ATTENTIONS:
        raise InputError(
            f"there is no attention '{name}'.{nearest(name, ATTENTIONS)} All of them: {', '.join(ATTENTIONS)}"
        )
    row = ATTENTIONS[name]
    if not row.takes_power:
        if power != 2.0:
            raise InputError(f"attention '{name}' takes no power, got {power}: leave it out, or use attention=power")
        return row.build()
    if isinstance(power, Sequence):
        if not power:
            raise InputError("power holds no number: give one, or several as [1, 2, 4]")
        return Several(tuple(row.build(float(one)) for one in power))  # type: ignore[misc]
    return row.build(power)
