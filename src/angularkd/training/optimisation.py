"""Optimisers, and learning-rate schedules as functions of the step: the factor by which the peak rate is multiplied."""

# Schedules are pure functions of the step, which LambdaLR evaluates: torch's own schedulers chain states of their own, of which a
# warm-up in fractions of an epoch and a resumption within one would have to be put together again.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from angularkd.errors import InputError

Factor = Callable[[int], float]

ONE_CYCLE_START = 1 / 25
"""A one-cycle run starts at this fraction of its peak rate, as torch.optim.lr_scheduler.OneCycleLR does."""


def batches_a_step(batches: int, accumulate: int) -> int:
    """Return how many batches make an optimiser step, in an epoch of so many: `accumulate`, or all where there are fewer."""
    return min(batches, accumulate)


def steps_an_epoch(batches: int, accumulate: int) -> int:
    """Return the optimiser steps of an epoch of so many batches; those beyond the last whole step are left out."""
    return batches // batches_a_step(batches, accumulate)


def images_an_epoch(batches: int, accumulate: int, batch_size: int) -> int:
    """Return the images of an epoch of so many batches that make steps."""
    return steps_an_epoch(batches, accumulate) * batches_a_step(batches, accumulate) * batch_size


def build_optimizer(
    name: str,
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    unscales: bool,
) -> Optimizer:
    """Return the optimiser of a name, fused where the device has such a kernel.

    Args:
        name: sgd or adamw.
        parameters: what is trained.
        lr: peak learning rate.
        weight_decay: of both.
        momentum, nesterov: of sgd.
        unscales: whether the loop unscales float16 gradients itself, which a fused optimiser would do again.

    Raises:
        InputError: when there is nothing to train.
    """
    if not parameters:
        raise InputError("the model has no parameter that is to be trained: set requires_grad on some")
    fused = parameters[0].device.type in ("cpu", "cuda") and not unscales
    if name == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    optimizer = SGD(
        parameters, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay, fused=fused
    )
    if fused and momentum > 0:
        _begin_momentum(optimizer)
    return optimizer


def _begin_momentum(optimizer: SGD) -> None:
    """Let the momentum of every parameter be zeros, from which the first step makes the gradient, as it should.

    The fused kernel itself begins with memory that nothing was written to. It wants all gradients to come first in the same step, so it
    fails for a layer that was skipped then, and goes on with that memory where a gradient scaler has skipped the step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def constant(progress: float) -> float:
    """Return 1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov & Hutter, arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def stepwise(milestones: Sequence[float], gamma: float) -> Callable[[float], float]:
    """Return a factor that is multiplied by gamma at each milestone, a fraction of the run."""
    return lambda progress: gamma ** sum(progress >= milestone for milestone in milestones)


def with_warmup(course: Callable[[float], float], total_steps: int, warmup_steps: int) -> Factor:
    """Return a linear rise over `warmup_steps`, then `course` over the rest, whose progress runs from 0 to 1."""
    return _warmed_up(lambda step: course((step - warmup_steps) / max(1, total_steps - warmup_steps)), warmup_steps)


def _warmed_up(factor: Factor, warmup_steps: int) -> Factor:
    """Return a linear rise over `warmup_steps`, then a factor as it is."""
    return lambda step: (step + 1) / (warmup_steps + 1) if step < warmup_steps else factor(step)


def one_cycle(total_steps: int, warmup_steps: int) -> Factor:
    """Return a rise along half a cosine over the warm-up, and a fall to nearly 0 over the rest (Smith & Topin, arXiv 1708.07120)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - cosine(step / warmup_steps))
        return cosine((step - warmup_steps) / max(1, total_steps - warmup_steps))

    return factor


def schedule(
    name: str, total_steps: int, warmup_steps: int, milestones: Sequence[float] = (), gamma: float = 0.1
) -> Factor:
    """Return the schedule of a name.

    Args:
        name: cosine, onecycle, step or constant. onecycle without a warm-up rises for 30 % of the run.
        total_steps: optimiser steps of the run.
        warmup_steps: those of its warm-up.
        milestones: where the step schedule drops, as fractions of the run, its warm-up included.
        gamma: factor of each of its drops.
    """
    if name == "onecycle":
        return one_cycle(total_steps, warmup_steps or max(1, round(0.3 * total_steps)))
    if name == "step":
        drops = stepwise(milestones, gamma)
        return _warmed_up(lambda step: drops(step / max(1, total_steps)), warmup_steps)
    courses = {"cosine": cosine, "constant": constant}
    return with_warmup(courses[name], total_steps, warmup_steps)
