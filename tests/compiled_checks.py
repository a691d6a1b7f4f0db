"""Checks of compiled code. Each runs in a process of its own: the shape checks of the tests cannot be compiled."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from angularkd import Distiller, InputError
from angularkd.losses.angular import AMDLoss
from angularkd.losses.weighted import LOSSES
from angularkd.models.classifier import Preprocessing


class Small(nn.Module):
    """Three stages and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = ((3, width), (width, 2 * width), (2 * width, 4 * width))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, m, 3, 2, 1), nn.BatchNorm2d(m), nn.ReLU()) for n, m in sizes
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = stage(images)
        return self.head(images.mean((2, 3)))


IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS, INDICES = torch.arange(8) % 10, torch.arange(8)


def small_distiller(losses: dict) -> Distiller:
    torch.manual_seed(0)
    preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return Distiller(
        Small(6),
        Small(6 if set(losses) & {"fsp", "hcl", "nst"} else 4),
        losses,
        example=IMAGES,
        teacher_transform=preprocessing,
        student_transform=preprocessing,
        train_labels=torch.arange(40) % 10,
    ).train()


def total_and_gradient(distiller: Distiller, count: int = 8) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    distiller.zero_grad()
    out = distiller(IMAGES[:count], LABELS[:count], INDICES[:count])
    out.total.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in distiller.parameters()]
    return out.total.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def every_loss_is_compiled_whole() -> None:
    for name in LOSSES:
        eager, compiled = small_distiller({name: 1.0}), small_distiller({name: 1.0})
        expected = total_and_gradient(eager)
        torch._dynamo.reset()
        counters.clear()
        compiled.compile(backend="eager")
        torch.testing.assert_close(
            total_and_gradient(compiled), expected, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert counters["frames"]["total"] > 0 and not counters["graph_break"], (name, counters)


def inductor_computes_the_same() -> None:
    losses = {"ce": 1.0, "kd": 0.9, "amd": {"weight": 100.0, "warmup_epochs": 4, "grid": 2}}
    eager, compiled = small_distiller(losses), small_distiller(losses)
    compiled.compile()
    for step in range(3):
        for distiller in (eager, compiled):
            distiller.set_epoch(step + 1, 10)
        expected = total_and_gradient(eager)
        torch.testing.assert_close(total_and_gradient(compiled), expected, rtol=1e-4, atol=1e-5)
    made = counters["frames"]["total"]
    torch.testing.assert_close(total_and_gradient(compiled, 5), total_and_gradient(eager, 5))  # another shape: eager
    compiled.eval()
    with torch.no_grad():
        assert compiled(IMAGES, LABELS).total.isfinite()
    assert counters["frames"]["total"] == made > 0 and not counters["graph_break"]
    with torch.no_grad():
        for parameter in compiled.teacher.module.parameters():
            parameter.zero_()
    assert compiled.teacher(IMAGES).output.abs().max() > 0, "convolutions are frozen into the code"
    compiled.uncompile()
    assert compiled.teacher(IMAGES).output.abs().max() == 0


def compiled_amd_is_the_eager_one() -> None:
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        for options in ({}, {"grid": 2}, {"margin": "arcface"}, {"margin": 3.0}, {"margin": 0.7, "power": [1, 2]}):
            student, teacher = (torch.randn(4, c, 8, 8, dtype=dtype).abs() for c in (3, 5))
            student[0], student[1, :, 0, 0] = 0, 1e4  # no direction; nearly all at one position
            loss = AMDLoss(**options)
            gradients = []
            for function in (loss, torch.compile(copy.deepcopy(loss), backend="eager")):
                leaf = student.clone().requires_grad_()
                value = function([leaf], [teacher])
                value.backward()
                gradients.append((value.detach(), leaf.grad))
            torch.testing.assert_close(gradients[1][0], gradients[0][0], rtol=tolerance, atol=0)
            assert (gradients[1][1] - gradients[0][1]).norm() <= tolerance * gradients[0][1].norm(), (dtype, options)


def what_cannot_be_compiled_is_told() -> None:
    for attention in ("gradcam", "class_token"):
        with pytest.raises(InputError, match="leave compilation out"):
            small_distiller({"amd": {"weight": 1.0, "attention": attention}}).compile()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("checked")
