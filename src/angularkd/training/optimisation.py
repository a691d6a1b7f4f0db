"""Learning-rate schedules as functions of the step: the factor by which the peak rate is multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Factor = Callable[[int], float]

ONE_CYCLE_START = 1 / 25
"""A one-cycle run starts at this fraction of its peak rate, as torch.optim.lr_scheduler.OneCycleLR does."""


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov & Hutter, arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def stepwise(milestones: Sequence[float], gamma: float) -> Callable[[float], float]:
    """Multiplied by gamma at each milestone, a fraction of the run."""
    return lambda progress: gamma ** sum(progress >= milestone for milestone in milestones)


def with_warmup(course: Callable[[float], float], total_steps: int, warmup_steps: int) -> Factor:
    """A linear rise over `warmup_steps`, then `course` over the rest, whose progress runs from 0 to 1."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return course((step - warmup_steps) / max(1, total_steps - warmup_steps))

    return factor


def one_cycle(total_steps: int, warmup_steps: int) -> Factor:
    """Up along half a cosine over the warm-up, and down to nearly 0 over the rest (Smith & Topin, arXiv 1708.07120)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - cosine(step / warmup_steps))
        return cosine((step - warmup_steps) / max(1, total_steps - warmup_steps))

    return factor


def schedule(
    name: str, total_steps: int, warmup_steps: int, milestones: Sequence[float] = (), gamma: float = 0.1
) -> Factor:
    """The schedule of a name: cosine, onecycle, step or constant. onecycle without a warm-up rises for 30 % of the run."""
    if name == "onecycle":
        return one_cycle(total_steps, warmup_steps or max(1, round(0.3 * total_steps)))
    courses = {"cosine": cosine, "constant": constant, "step": stepwise(milestones, gamma)}
    return with_warmup(courses[name], total_steps, warmup_steps)
