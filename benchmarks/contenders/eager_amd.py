"""AMD in plain PyTorch, as its authors wrote it down and as one would mend that: what ours is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss, normalize

SCALE, MARGIN = 64.0, 1.35


def published(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """With psi - log(exp(psi) + exp(n)), and log(exp(.)) of the other two terms: NaN in half precision."""
    return _over_stages(student, teacher, _published_terms)


def stable(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The same with logsigmoid(psi - n), and the other two terms as they are."""
    return _over_stages(student, teacher, _stable_terms)


def _published_terms(attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positive, negative = _positive_and_negative(attention)
    raised, other = torch.exp(positive), torch.exp(negative)
    return positive - torch.log(raised + other), torch.log(raised), torch.log(other)


def _stable_terms(attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positive, negative = _positive_and_negative(attention)
    return logsigmoid(positive - negative), positive, negative


def _positive_and_negative(attention: Tensor) -> tuple[Tensor, Tensor]:
    angle = torch.acos(attention.clamp(-1 + 1e-7, 1 - 1e-7))
    return SCALE * torch.cos(MARGIN * angle), SCALE * (1 - attention)


def _over_stages(student: Sequence[Tensor], teacher: Sequence[Tensor], terms) -> Tensor:  # type: ignore[no-untyped-def]
    total = torch.zeros((), device=student[0].device)
    for ours, theirs in zip(student, teacher, strict=True):
        both = zip(terms(_attention(ours)), terms(_attention(theirs.detach())), strict=True)
        total = total + sum(mse_loss(normalize(s, dim=1), normalize(t, dim=1)) for s, t in both) / 3
    return total


def _attention(features: Tensor) -> Tensor:
    power = features.abs().pow(2).sum(dim=1, keepdim=True)
    return (power / (power.norm(dim=(2, 3), keepdim=True) + 1e-6)).flatten(1)
