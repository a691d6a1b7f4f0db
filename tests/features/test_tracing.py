"""The one dry forward of a network and what it shows."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from angularkd.features import Head, find_stages, head_of, trace
from angularkd.models import cifar


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0))


class Overwriting(nn.Module):
    """Gives a map that is overwritten through a view of it when nobody holds the map itself any more, and one that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        view = self.first(x)[:, :2]
        view.relu_()
        y = self.second(torch.cat([view, view], dim=1))
        return self.linear(y.relu().mean(dim=(2, 3)))


class Logits(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


class Auxiliary(nn.Module):
    """Always gives its logits beside others, as GoogLeNet does in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Logits:
        pooled = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        other = self.other(pooled)
        return Logits(self.linear(pooled), other)


def test_a_trace_takes_one_forward_of_two_equal_images() -> None:
    model, batches = cifar.create("resnet8", 10), []
    model.register_forward_pre_hook(lambda _m, inputs: batches.append(inputs[0]))
    found = trace(model, images())
    find_stages(model, found)
    assert len(batches) == 1
    assert torch.equal(batches[0], images()[:1].repeat(2, 1, 1, 1))
    assert (found.output_shape, found.output_kind, found.image_size) == ((2, 10), "Tensor", (32, 32))
    assert head_of(found, model) == Head("linear", 64)


def test_operations_are_those_of_one_image() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.Flatten(), nn.Linear(5 * 6 * 6, 7, bias=False))
    assert trace(model, images(8, 8)).flops == 2 * (5 * 6 * 6 * 3 * 9 + 5 * 6 * 6 * 7)


def test_what_is_overwritten_later_is_known_from_the_same_forward() -> None:
    found = {each.stage.path: each.stage.overwritten for each in trace(Overwriting(), images()).maps}
    assert found == {"first": True, "second": False}


def test_a_model_that_gives_no_tensor_is_traced_too() -> None:
    found = trace(Auxiliary(), images())
    assert (found.output_shape, found.output_kind, found.head) == ((2, 5), "Logits", Head("linear", 12))

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    found = trace(Nothing(), images())
    assert (found.output_shape, found.output_kind, found.head, found.maps) == (None, "NoneType", None, ())


def test_a_model_that_bears_no_counting_is_traced_without() -> None:
    class Shy(nn.Module):
        """Refuses to be run inside of a dispatch mode."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise AssertionError("counted")
            return y.mean(dim=(2, 3))

    found = trace(Shy(), images())
    assert found.flops is None
    assert [each.stage.path for each in found.maps] == ["conv"]


def test_what_a_model_raises_is_raised_and_no_hook_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(RuntimeError, match="3 channels"):
        trace(model, torch.zeros(1, 4, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_parts_in_inference_mode_are_traced() -> None:
    class Part(nn.Conv2d):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    maps = trace(nn.Sequential(Part(3, 4, 3), nn.Conv2d(4, 4, 3)), images()).maps
    assert [(each.stage.path, each.stage.overwritten) for each in maps] == [("0", False), ("1", False)]


def test_a_model_may_draw_random_numbers_and_nobody_notices() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x + torch.rand_like(x))

    model, before = Noise(), torch.get_rng_state()
    trace(model, images())
    assert torch.equal(torch.get_rng_state(), before)
