"""The distill command."""

from __future__ import annotations

from typing import Any

from angularkd.config import DistillConfig
from angularkd.runs import Run
from angularkd.training import run_distillation, taken_out


def distill(**options: Any) -> Run:
    """Distil a teacher into a student.

    Args:
        options: the fields of `angularkd.config.DistillConfig`, which are the flags of `angularkd distill`. `teacher`
            and `student` may be `torch.nn.Module`s too, from images to logits; the student is then trained in place.

    Returns:
        The finished run.

    Raises:
        InputError: when something that was given cannot be used.
    """
    texts, modules = taken_out(options)
    return run_distillation(DistillConfig.from_options(**texts), modules=modules)
