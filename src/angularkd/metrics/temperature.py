"""Temperature scaling: the one number by which a model's logits are divided, so that its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.system.modes import mode
from angularkd.types import Batch

MOST_IMAGES = 10_000
"""Images that a temperature is fitted on, evenly spread: one number needs no more."""
MOST_LOGITS = 10_000_000
"""Logits that it is fitted on: of very many classes, those of fewer images."""
LEAST_IMAGES = 50
"""Images without which none is fitted: those of fewer swing between extremes, by one image that is right or wrong."""
LEAST, LARGEST = 0.05, 20.0
"""Bounds of a temperature: beyond, probabilities are one-hot, or all equal."""


def fit_temperature(logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """Return the temperature T for which the mean of -log softmax(logits / T)[label] is least (Guo et al., arXiv 1706.04599).

    The mean is convex in 1 / T, so the root of its derivative is the one minimum. There is none where no image is wrong (the smaller
    T, the better), nor where the logits are no better than chance (the larger, the better): such logits say nothing of a
    temperature, and 1 is returned, which leaves them as they are.

    Args:
        logits: of images that the model was not trained on: those of the validation split.
        labels: their classes.

    Returns:
        T, between LEAST and LARGEST.

    Raises:
        InputError: for logits that are not finite.
    """
    from scipy.optimize import brentq  # a tenth of a second that only who fits waits for

    logits, labels = logits.detach().double().cpu(), labels.cpu()
    if not logits.isfinite().all():
        raise InputError(
            "the logits are not finite, so that no temperature fits them: give those of a model that has not diverged"
        )
    logits = logits - logits.gather(1, labels[:, None])  # beside that of the image's own class

    def slope(inverse: float) -> float:
        """Return the derivative of the mean with respect to 1 / T: the mean logit under the probabilities."""
        return float((logits * (logits * inverse).softmax(dim=1)).sum(dim=1).mean())

    if bool((logits <= 0).all()) or slope(0.0) >= 0:
        return 1.0
    if slope(1 / LEAST) <= 0:
        return LEAST
    if slope(1 / LARGEST) >= 0:
        return LARGEST
    return 1 / brentq(slope, 1 / LARGEST, 1 / LEAST, xtol=1e-12)


def temperature_on(
    model: nn.Module, predict: Callable[[Tensor], Tensor], batches: Iterable[Batch], images: int
) -> float | None:
    """Return the temperature that fits a model's logits for some images, None where these are not finite, or there are no images.

    It is 1, which leaves logits as they are, where there are fewer than LEAST_IMAGES.

    Args:
        model: put into evaluation mode meanwhile.
        predict: from images in 0..1 to its logits.
        batches: of images that it was not trained on, whose labels are classes.
        images: how many they are; of more than MOST_IMAGES or MOST_LOGITS allow, evenly spread ones are used.
    """
    if not images:
        return None
    passed, logits, labels = 0, [], []
    with mode(model, training=False), torch.inference_mode():
        for batch in batches:
            found = predict(batch.images)
            every = -(-images // max(1, min(MOST_IMAGES, MOST_LOGITS // found.shape[1])))
            rows = slice(-passed % every, None, every)
            logits.append(found[rows].float().cpu())
            labels.append(batch.labels[rows].cpu())
            passed += len(batch.images)
    used = torch.cat(logits)
    if not used.isfinite().all():
        return None
    return fit_temperature(used, torch.cat(labels)) if len(used) >= LEAST_IMAGES else 1.0
