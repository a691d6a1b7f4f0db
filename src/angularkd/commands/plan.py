"""The plan command."""

from __future__ import annotations

from typing import Any

from angularkd.config import DistillConfig
from angularkd.training import Plan, plan_distillation


def plan(**options: Any) -> Plan:
    """Return what `distill` with the same options would pair, check and spend; nothing is written.

    Args:
        options: the fields of `angularkd.config.DistillConfig`, which are the flags of `angularkd plan`.

    Raises:
        InputError: when something that was given cannot be used.
    """
    return plan_distillation(DistillConfig.from_options(**options))
