"""The train command."""

from __future__ import annotations

from typing import Any

from angularkd.config import TrainConfig
from angularkd.runs import Run
from angularkd.training import run_training, taken_out


def train(**options: Any) -> Run:
    """Train or fine-tune a classifier.

    Args:
        options: the fields of `angularkd.config.TrainConfig`, which are the flags of `angularkd train`. `model` may be
            a `torch.nn.Module` too, from images to logits, which is then trained in place.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    texts, modules = taken_out(options)
    return run_training(TrainConfig.from_options(**texts), modules=modules)
