"""On a CUDA GPU: no step waits for the device, and compiled steps are the eager ones. Skipped where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from angularkd import Distiller
from angularkd.data import ResidentImages, ResidentLoader, Views
from angularkd.distillation import About, CachedTeacher, LiveTeacher
from angularkd.metrics import LARGEST_BATCH, largest_batch
from angularkd.models import Preprocessing, cifar
from angularkd.system.compiling import options_for
from angularkd.training import TrainingMeter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
LOSSES = {"ce": 0.1, "kd": 0.9, "amd": {"weight": 100.0, "warmup_epochs": 1}}


def loader() -> ResidentLoader:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 32, 32, 3), generator=generator, dtype=torch.uint8)
    images = ResidentImages(pixels, torch.arange(64) % 10)
    views = Views(("flip",), 64, (32, 32), 0)
    return ResidentLoader(images, views, 16, seed=0, shuffle=True, drop_last=True, device="cuda")


def distiller(cache: Path | None = None) -> Distiller:
    torch.manual_seed(0)
    module, student = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    teacher = LiveTeacher(module, preprocessing)
    if cache is not None:
        about = About("teacher", "mean 0", "32-true", "data", {"ops": ["flip"]}, samples=64, views_count=2)
        teacher = CachedTeacher(teacher, cache, about)
    example = torch.zeros(1, 3, 32, 32)
    return Distiller(teacher, student, LOSSES, example=example, student_transform=preprocessing).to("cuda").train()


@pytest.mark.parametrize("cached", [False, True])
def test_no_step_waits_for_the_device(tmp_path, cached) -> None:
    batches, trained = loader(), distiller(tmp_path if cached else None)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9, fused=True)
    meter = TrainingMeter()

    def epoch(number: int) -> None:
        for step, batch in enumerate(batches.epoch(number)):
            trained.set_epoch(number + step / len(batches), 10)
            out = trained(batch.images, batch.labels, batch.indices, batch.view)
            out.total.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.update(out, batch.labels)

    for number in range(2):  # libraries set themselves up, and the cache fills
        epoch(number)
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.compute()["loss"] > 0


def test_evaluation_takes_what_fits() -> None:
    model, device = cifar.create("resnet8", 10).to("cuda").eval(), torch.device("cuda")
    assert largest_batch(model, (32, 32), device, 16) == LARGEST_BATCH
    assert largest_batch(model, (32, 32), device, 8192) == 8192


def compare_compiled() -> None:
    """Runs in a process of its own, for shape checks, where they are on, cannot be compiled."""
    batch = next(loader().epoch(0))
    found = []
    for options in (None, options_for(torch.device("cuda"))):
        trained = distiller()
        if options is not None:
            trained.compile(**options)
        for _ in range(4):
            trained.zero_grad()
            out = trained(batch.images, batch.labels)
            out.total.backward()
        found.append((out.total.detach().clone(), trained.student.conv1.weight.grad.clone()))
    assert not counters["inductor"]["cudagraph_skips"]
    torch.testing.assert_close(found[1], found[0], rtol=5e-3, atol=1e-4)
    print("equal")


def test_compiled_equals_eager() -> None:
    run = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_gpu as test; "
    done = subprocess.run([sys.executable, "-c", f"{run} test.compare_compiled()"], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
