"""Modes and random states are put back, whatever happened between."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from angularkd.system.modes import mode, restored, seeded, undisturbed
from helpers import same


class Broken(Exception):
    """Raised inside of a context."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()  # modes differ between its parts
    return model


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


def random_states() -> list[object]:
    numpy = [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]
    return [random.getstate(), numpy, torch.get_rng_state().tolist(), torch.initial_seed()]


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


@pytest.mark.parametrize("training", [False, True])
def test_mode_holds_inside_and_each_part_gets_its_own_back(training) -> None:
    model = network()
    before = modes(model)
    with mode(model, training):
        assert set(modes(model)) == {training}
    assert modes(model) == before and len(set(before)) == 2
    with pytest.raises(Broken), mode(model, training):
        raise Broken
    assert modes(model) == before


def test_undisturbed_is_evaluation_without_gradients_and_without_traces() -> None:
    model = network()
    before, statistics = modes(model), random_states()
    with undisturbed(model):
        assert not any(modes(model)) and not torch.is_grad_enabled()
        out = model(torch.rand(3, 4))
    assert modes(model) == before and random_states() == statistics
    assert torch.is_grad_enabled() and not out.requires_grad
    with torch.inference_mode():
        with undisturbed(model):
            assert not torch.is_inference(torch.ones(1)), "what is made inside may be used in training"
        assert torch.is_inference_mode_enabled()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("fails", [False, True])
def test_restored_undoes_training(fails) -> None:
    model = network()
    before, weights, states = modes(model), snapshot(model), random_states()
    try:
        with restored(model):
            assert all(modes(model)), "inside, everything is in training mode"
            model(torch.rand(8, 4)).sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= parameter.grad
            assert not same(model.state_dict(), weights)
            if fails:
                raise Broken
    except Broken:
        assert fails
    assert same(model.state_dict(), weights)
    assert modes(model) == before and random_states() == states
    assert all(parameter.grad is None for parameter in model.parameters())


def draw_and_break() -> None:
    draw()
    raise Broken


def test_seeded_draws_what_the_seed_says_and_the_caller_goes_on() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    draw()
    before = random_states()
    with seeded(7):
        first = draw()
        assert torch.initial_seed() == 7
    assert random_states() == before
    draw()
    with seeded(7):
        assert draw() == first
    with seeded(8):
        assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_seeded_puts_back_after_an_error_and_inside_of_itself() -> None:
    before = random_states()
    with pytest.raises(Broken), seeded(1):
        draw_and_break()
    assert random_states() == before
    with seeded(1):
        draw()
        inner = random_states()
        with seeded(2):
            draw()
        assert random_states() == inner
