"""The train command."""

from __future__ import annotations

from typing import Any

from angularkd.config import TrainConfig
from angularkd.runs import Run
from angularkd.training import run_training


def train(**options: Any) -> Run:
    """Train or fine-tune a classifier.

    Args:
        options: the fields of `angularkd.config.TrainConfig`, which are the flags of `angularkd train`.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    return run_training(TrainConfig.from_options(**options))
