"""Checks of compiled code. Each runs in a process of its own, for shape checks, where they are on, cannot be compiled."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch._dynamo.utils import counters

import angularkd
from angularkd import AMDLoss, Distiller, InputError
from angularkd.commands.cache import fill_cache, verify_cache
from angularkd.config import DistillConfig
from angularkd.losses import LOSSES
from angularkd.models import Preprocessing
from angularkd.system.compiling import options_for
from angularkd.training import Silent
from helpers import saved_weights


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


class TwoHeads(Small):
    """A student with a distillation head."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.second = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return (logits, self.second(logits)) if self.training else logits


IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS, INDICES = torch.arange(8) % 10, torch.arange(8)


def small_distiller(losses: dict) -> Distiller:
    torch.manual_seed(0)
    preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return Distiller(
        Small(6),
        (TwoHeads if "token" in losses else Small)(6 if set(losses) & {"fsp", "hcl", "nst"} else 4),
        losses,
        example=IMAGES,
        teacher_transform=preprocessing,
        student_transform=preprocessing,
        train_labels=torch.arange(40) % 10,
        class_logits=torch.randn(10, 4, 10),
    ).train()


def total_and_gradient(distiller: Distiller, count: int = 8) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    distiller.zero_grad()
    out = distiller(IMAGES[:count], LABELS[:count], INDICES[:count])
    out.total.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in distiller.parameters()]
    return out.total.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def every_loss_is_compiled_whole() -> None:
    chosen = {"weight": 1.0, "stages": [1, 3], "stage_weights": [0.5, 2]}
    for name, options in [*((name, 1.0) for name in LOSSES), ("at", chosen), ("fitnet", chosen)]:
        eager, compiled = small_distiller({name: options}), small_distiller({name: options})
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
    compiled.compile(**options_for(IMAGES.device))
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
    assert compiled.teacher(IMAGES).logits.abs().max() > 0, "convolutions are frozen into the code"
    compiled.uncompile()
    assert compiled.teacher(IMAGES).logits.abs().max() == 0


def a_distiller_inside_of_somebody_s_torch_compile_computes_the_same() -> None:
    for losses in ({"ce": 1.0, "kd": 0.9, "amd": {"weight": 100.0, "grid": 2}}, {"ce": 1.0, "ofd": 1.0, "pkt": 10.0}):
        eager, inside = small_distiller(losses), small_distiller(losses)
        compiled = torch.compile(inside, backend="aot_eager")
        for count in (8, 8, 5):
            expected = total_and_gradient(eager, count)
            torch.manual_seed(1)
            inside.zero_grad()
            out = compiled(IMAGES[:count], LABELS[:count], INDICES[:count])
            out.total.backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in inside.parameters()]
            found = out.total.detach(), torch.cat([gradient.flatten() for gradient in gradients])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert counters["stats"]["calls_captured"] > 0
        torch._dynamo.reset()
        counters.clear()


def compiled_amd_is_the_eager_one() -> None:
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        for options in (
            {},
            {"grid": 2},
            {"margin": "arcface"},
            {"margin": 3.0},
            {"margin": 0.7, "power": [1, 2]},
            {"centered": True},
            {"terms": "negative,angular", "grid": 2},
            {"centered": True, "grid": 3, "normalization": "max", "stage_weights": "balanced"},
        ):
            student, teacher = (torch.randn(4, c, 8, 8, dtype=dtype).abs() for c in (3, 5))
            student[0], student[1, :, 0, 0] = 0, 1e4  # no direction; nearly all at one position
            torch._dynamo.reset()
            loss = AMDLoss(**options)
            gradients = []
            for function in (loss, torch.compile(copy.deepcopy(loss), backend="eager")):
                leaf = student.clone().requires_grad_()
                value = function([leaf], [teacher])
                value.backward()
                gradients.append((value.detach(), leaf.grad))
            torch.testing.assert_close(gradients[1][0], gradients[0][0], rtol=tolerance, atol=0)
            assert (gradients[1][1] - gradients[0][1]).norm() <= tolerance * gradients[0][1].norm(), (dtype, options)


def half_precision_is_compiled() -> None:
    losses = {"ce": 1.0, "kd": 0.9, "amd": 100.0}
    eager, compiled = small_distiller(losses), small_distiller(losses)
    compiled.compile(backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        (expected, expected_gradient), (total, gradient) = map(total_and_gradient, (eager, compiled))
    assert counters["frames"]["total"] > 0 and total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=1e-2, atol=0)
    assert (gradient - expected_gradient).norm() < 0.1 * expected_gradient.norm()


def a_compiled_run_with_a_cache_goes_on_where_it_stopped(teacher: str) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        base = {"data": "digits", "image_size": 8, "batch_size": 64, "augment": ("flip",), "device": "cpu"}
        recipe = {**base, "teacher": teacher, "student": "cifar/resnet8", "epochs": 2, "loss": {"kd": 1.0, "amd": 50.0}}
        recipe = {**recipe, "cache": folder / "cache", "compile": "always"}
        config, console = DistillConfig.from_options(**recipe), Console(quiet=True)
        made = fill_cache(config, console)
        assert made["filled"] == 1 and counters["stats"]["unique_graphs"] == 1, "the teacher is compiled"
        assert max(verify_cache(config, console)["off_by"].values()) < 2e-3
        eager, whole = (
            angularkd.distill(**{**recipe, "compile": compile_}, out=folder / compile_)
            for compile_ in ("never", "always")
        )
        assert [run.results["compiled"] for run in (eager, whole)] == [False, True]
        stops = pytest.MonkeyPatch()
        stops.setattr(Silent, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            angularkd.distill(**recipe, out=folder / "stopped")
        stops.undo()
        epochs: list[int] = []
        stops.setattr(Silent, "epoch", lambda self, row: epochs.append(row["epoch"]))
        resumed = angularkd.distill(**recipe, out=folder / "stopped", resume=True)
        assert epochs == [2]
        assert resumed.results["compiled"], "else it has computed what is rounded otherwise"
        torch.testing.assert_close(saved_weights(resumed.folder), saved_weights(whole.folder), rtol=0, atol=0)
        losses = [
            json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])["loss"] for run in (eager, whole)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def what_cannot_be_compiled_is_named() -> None:
    for attention in ("gradcam", "class_token"):
        with pytest.raises(InputError, match="leave compilation out"):
            small_distiller({"amd": {"weight": 1.0, "attention": attention}}).compile()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("checked")
