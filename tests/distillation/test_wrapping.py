"""The extractor and the distiller under torch.compile, autocast and DDP, and what extracting a teacher's features costs in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from angularkd import Distiller
from angularkd.features import FeatureExtractor, PowerMap
from angularkd.models import cifar
from traced import stages_of

LOSSES = {"ce": 1.0, "kd": 1.0, "amd": 10.0}


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return cifar.create("resnet14", 10), cifar.create("resnet8", 10)


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 16, 16, generator=generator), torch.arange(count) % 10


def gradient(distiller: nn.Module, student: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    out = distiller(*data)
    out.total.backward()
    return out.total.detach(), student.conv1.weight.grad


def compare_compiled_with_eager() -> None:
    """Runs in a process of its own, for shape checks, where they are on, cannot be compiled."""
    images, _ = batch()
    teacher, student = models()
    plain = gradient(Distiller(teacher, student, LOSSES, example=images).train(), student, batch())
    teacher, student = models()
    whole = torch.compile(Distiller(teacher, student, LOSSES, example=images).train(), backend="eager")
    torch.testing.assert_close(gradient(whole, student, batch()), plain)
    teacher, student = models()
    both = (torch.compile(model, backend="eager") for model in (teacher, student))
    parts = Distiller(*both, LOSSES, example=images).train()
    assert parts.pairs[-1].student.path == "_orig_mod.layer3"
    torch.testing.assert_close(gradient(parts, student, batch()), plain)
    print("equal")


def test_compiled_equals_eager() -> None:
    folders = [str(folder) for folder in Path(__file__).parents[:2]]  # this one, and that of the helpers
    run = f"import sys; sys.path[:0] = {folders}; import test_wrapping as test; "
    command = [sys.executable, "-c", f"{run} test.compare_compiled_with_eager()"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


def test_autocast_computes_the_maps_in_full_precision() -> None:
    teacher, _ = models()
    stages = stages_of(teacher, batch()[0])
    with FeatureExtractor(teacher.eval(), stages, (PowerMap(),)) as extractor, torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = extractor(batch()[0])
        full = extractor(batch()[0])
    assert half.logits.dtype == torch.bfloat16
    for ours, expected in zip(half.features[PowerMap()], full.features[PowerMap()], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=0.1, atol=0.1)
    teacher, student = models()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, grad = gradient(Distiller(teacher, student, LOSSES).train(), student, batch())
    assert total.dtype == torch.float32 and total.isfinite() and grad.isfinite().all() and grad.abs().sum() > 0


class Plain(nn.Module):
    """Without batch normalisation, which sees its own process's half of the batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv1(images).relu().mean((2, 3)))


def plain_distiller() -> tuple[Distiller, nn.Module]:
    torch.manual_seed(0)
    teacher, student = Plain(), Plain()
    return Distiller(teacher, student, LOSSES, pairs="conv1:conv1", example=batch()[0]).train(), student


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        distiller, student = plain_distiller()
        images, labels = batch(8)
        _, grad = gradient(DistributedDataParallel(distiller), student, (images[rank::2], labels[rank::2]))
        torch.save(grad, f"{folder}/{rank}.pt")
    finally:
        destroy_process_group()


def test_two_processes_equal_one(tmp_path) -> None:
    spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    distiller, student = plain_distiller()
    _, expected = gradient(distiller, student, batch(8))
    for rank in range(2):
        torch.testing.assert_close(torch.load(Path(tmp_path) / f"{rank}.pt"), expected)


def test_extracting_features_takes_less_than_a_twentieth_of_its_memory(tmp_path) -> None:
    model = cifar.create("wrn_16_2", 10).eval()
    images = torch.rand(128, 3, 32, 32)
    stages = stages_of(model, images[:1])
    extractor = FeatureExtractor(model, stages, (PowerMap(),))
    with torch.no_grad():
        bare = peak_bytes(lambda: model(images), tmp_path / "bare.json")
        extracted = peak_bytes(lambda: extractor(images), tmp_path / "extracted.json")
    assert bare > 0 and extracted < 1.05 * bare, (extracted, bare)


def peak_bytes(call, trace: Path) -> int:
    """The most memory that tensors took at one time during a call, beyond what they took before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    totals = [event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in events if event.get("name") == "[memory]"]
    return max(totals) - (totals[0] - changes[0])
