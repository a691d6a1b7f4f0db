"""The teacher's logits of training images, class by class, for losses that compare classes by them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from angularkd.errors import InputError
from angularkd.metrics import Predict
from angularkd.training.build_data import Data
from angularkd.training.chance import balanced

IMAGES_A_CLASS = 64
"""At most; of the class with fewest images, if it has less."""


@torch.no_grad()
def class_logits(data: Data, predict: Predict, batch_size: int) -> Float[Tensor, "classes samples outputs"]:
    """Return what the teacher says of equally many training images of each class, evenly spread over the class.

    Args:
        data: the data set; its images are not augmented.
        predict: the teacher's logits of images in 0..1.
        batch_size: images at once.

    Raises:
        InputError: where a class has fewer than two training images.
    """
    labels, classes = data.dataset.train.labels, len(data.dataset.classes)
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < 2:
        raise InputError(
            f"a loss compares the teacher's logits of several training images of each class, and class "
            f"{data.dataset.classes[int(counts.argmin())]} has {counts.min()}: give it two, or use wkd, which reads the teacher's head"
        )
    some = balanced(data, "train", np.arange(len(labels)), IMAGES_A_CLASS * classes)
    logits = torch.cat([predict(batch.images).float().cpu() for batch in some.batches("train", batch_size).epoch(0)])
    order = np.argsort(some.dataset.train.labels, kind="stable")
    return logits[torch.from_numpy(order)].reshape(classes, -1, logits.shape[1])
