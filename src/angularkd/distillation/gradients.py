"""How hard each loss pulls at the student, and weights that are found from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.system.modes import restored

Norms = dict[str, float]
"""Norms of gradients by loss."""


def gradient_norms(module: nn.Module, student: nn.Module, terms: Callable[[], Mapping[str, Tensor]]) -> Norms:
    """Return the norm of each term's gradient at the student's parameters. Everything is left as it was.

    Args:
        module: what is put into training mode meanwhile; its parameters, statistics and gradients are put back.
        student: the network whose trainable parameters count.
        terms: computes the terms, scalars by name.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    norms = {}
    with restored(module):
        for name, term in terms().items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            norms[name] = math.sqrt(sum(float(g.float().square().sum()) for g in gradients if g is not None))
    return norms


def mean_norms(all_norms: Iterable[Norms]) -> Norms:
    """Return the mean over batches of each term's norm."""
    rows = list(all_norms)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def weights_for(shares: Mapping[str, float], norms: Norms) -> dict[str, float]:
    """Return the weights with which losses get their shares of the sum of all gradient norms.

        w_i = share_i / (1 - sum of shares) * (sum of the other losses' norms) / norm_i

    Args:
        shares: of each loss whose weight is to be found.
        norms: of every loss; those whose weights are given, weighted, and those in `shares` with a weight of 1.

    Raises:
        InputError: for a loss that has no gradient, and where no other has one.
    """
    others = sum(norm for name, norm in norms.items() if name not in shares)
    for name in shares:
        if not 0 < norms[name] < math.inf:
            raise InputError(
                f"the weight of loss '{name}' cannot be found, for its gradient at the student is {norms[name]:g}: "
                "give a number, or leave it out"
            )
    if not 0 < others < math.inf:
        raise InputError(
            f"weights of auto are found beside losses that have a weight, whose gradient at the student is {others:g}: "
            "give one, for example ce=1"
        )
    rest = 1 - sum(shares.values())
    return {name: share / rest * others / norms[name] for name, share in shares.items()}
