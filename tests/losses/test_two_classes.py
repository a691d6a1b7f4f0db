"""Losses of which something is constant where there are two classes: that it is, and that a plan says so."""

from __future__ import annotations

import pytest
import torch

from angularkd.losses import LOSSES, WeightedLosses, notes_of, read_terms
from angularkd.types import LossContext, Signals

CONSTANT = {
    "dkd": ({"alpha": 0.0}, "beta has no effect"),
    "nkd": (None, "gamma has no effect"),
    "dist": ({"gamma": 0.0}, "no gradient"),
    "kd": ({"standardise": True}, "standardise leaves no gradient"),
    "wkd": (None, "the transport costs the same"),
    "wkd_cka": (None, "the transport costs the same"),
}
"""Options that leave the constant part alone; None where the loss has none, so that its weight is compared with another."""
OTHER = {"nkd": "gamma", "wkd": "gamma", "wkd_cka": "gamma"}
CONTEXT = LossContext(head_weight=torch.randn(2, 4), class_logits=torch.randn(2, 5, 2), num_classes=2)


def gradient(name: str, options: dict[str, object]) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 2, dtype=torch.float64, generator=random)
    student.requires_grad_()
    losses = WeightedLosses(read_terms({name: {"weight": 1.0, **options}}), CONTEXT).double()
    value = losses(Signals(torch.arange(6) % 2, None, student, teacher))[name]
    return torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("name", CONSTANT)
def test_a_part_has_no_gradient_and_a_note_says_so(name: str) -> None:
    options, note = CONSTANT[name]
    if options is not None:
        assert gradient(name, options).abs().max() < 1e-6  # eps is left
    else:
        few, many = (gradient(name, {OTHER[name]: value}) for value in (0.0, 50.0))
        torch.testing.assert_close(many, few, rtol=0, atol=1e-6)
    losses = WeightedLosses(read_terms({name: {"weight": 1.0, **(options or {})}}), CONTEXT)
    assert [found for found in notes_of(losses, [], 2) if note in found and found.startswith(f"{name}: ")]
    assert notes_of(losses, [], 3) == []


def test_other_losses_on_logits_have_nothing_to_say() -> None:
    silent = {"ce", "kd", "hard", "token", "mlkd", "ctkd", "ictkd", "wsld"}
    for name in silent & set(LOSSES):
        assert notes_of(WeightedLosses(read_terms({name: 1.0}), CONTEXT), [], 2) == []
