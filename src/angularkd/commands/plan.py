"""The plan command."""

from __future__ import annotations

from typing import Any

from angularkd.config import DistillConfig
from angularkd.training import Plan, plan_distillation, taken_out


def plan(**options: Any) -> Plan:
    """Return what `distill` with the same options would pair, check and spend; nothing is written.

    Args:
        options: the fields of `angularkd.config.DistillConfig`, which are the flags of `angularkd plan`. `teacher` and
            `student` may be `torch.nn.Module`s too.

    Raises:
        InputError: when something that was given cannot be used.
    """
    texts, modules = taken_out(options)
    return plan_distillation(DistillConfig.from_options(**texts), modules)
