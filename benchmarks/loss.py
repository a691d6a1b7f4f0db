"""What AMD over three stages costs, from features to their gradients, against the same in plain PyTorch.

    python benchmarks/loss.py [--layout channels_last] [--device cuda] [--rounds 21] [--json-file loss.json]

Contenders, on the features of WRN-16-3 (teacher) and WRN-16-1 (student) for a batch of CIFAR-10:

    published   AMD as its authors wrote it down, psi - log(exp(psi) + exp(n)), run eagerly
    stable      the same with logsigmoid, run eagerly
    ours eager  AMDLoss
    ours        AMDLoss under torch.compile, as `Distiller.compile` does it
    floor       nothing but reading: all features once forward, the student's once more backward

Seconds are medians over rounds that run each contender once; ratios are taken round by round. Extra memory is the most
that tensors took at one time beyond the features, and the gradients that come out, as PyTorch's own allocator saw it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from angularkd import AMDLoss
from angularkd.system.compiling import INDUCTOR_OPTIONS
from contenders.eager_amd import published, stable
from measuring import environment, in_rounds, ratio, report, shown, write

STAGES = ((16, 48, 32), (32, 96, 16), (64, 192, 8))
"""Student's channels, teacher's channels, side."""

Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def main() -> None:
    options = parse()
    student, teacher = features(options.batch_size, options.device, getattr(torch, options.layout))
    losses: dict[str, Loss] = {
        "published": published,
        "stable": stable,
        "ours eager": AMDLoss(),
        "ours": torch.compile(AMDLoss(), dynamic=False, options=INDUCTOR_OPTIONS),
    }
    values = {name: float(loss(student, teacher).detach()) for name, loss in losses.items()}
    parts = {name: step_of(loss, student, teacher) for name, loss in losses.items()}
    times = in_rounds({**parts, "floor": lambda: read(student, teacher)}, options.rounds)
    memory = {name: extra_bytes(part, student) for name, part in parts.items()}
    result = {
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in times.items()},
        "speedup_over_published": ratio(times["published"], times["ours"]),
        "speedup_over_stable": ratio(times["stable"], times["ours"]),
        "distance_to_floor": ratio(times["ours"], times["floor"]),
        "extra_mebibytes": {name: size / 2**20 for name, size in memory.items()},
        "memory_share_of_published": memory["ours"] / memory["published"],
        "values": values,
        "options": {key: str(value) for key, value in vars(options).items()},
        "made_on": environment(),
    }
    rows = [
        (name, f"{one:.2f}", f"{memory[name] / 2**20:.1f}" if name in memory else "")
        for name, one in result["milliseconds"].items()
    ]
    lines = [
        f"faster than published: {shown(result['speedup_over_published'])}",
        f"faster than stable:    {shown(result['speedup_over_stable'])}",
        f"times the floor:       {shown(result['distance_to_floor'])}",
        f"extra memory, of published's: {result['memory_share_of_published']:.3f}",
    ]
    report("AMD, forward and backward", ("", "ms", "extra MiB"), rows, lines)
    write(options.json_file, result)


def features(batch: int, device: str, layout: torch.memory_format) -> tuple[list[Tensor], list[Tensor]]:
    """Rectified noise of the student's and the teacher's shapes."""
    torch.manual_seed(0)

    def stage(channels: int, side: int) -> Tensor:
        return torch.randn(batch, channels, side, side, device=device).relu_().contiguous(memory_format=layout)

    student = [stage(channels, side).requires_grad_() for channels, _, side in STAGES]
    return student, [stage(channels, side) for _, channels, side in STAGES]


def step_of(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Callable[[], None]:
    def step() -> None:
        for one in student:
            one.grad = None
        loss(student, teacher).backward()

    return step


@torch.no_grad()
def read(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    for one in (*student, *teacher, *student):
        one.sum()


def extra_bytes(step: Callable[[], None], student: Sequence[Tensor]) -> int:
    """The most that a step allocated at one time, less the gradients that it leaves."""
    for one in student:
        one.grad = None
    gradients = sum(one.numel() * one.element_size() for one in student)
    if student[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before - gradients
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in events]
    return max(totals) - (totals[0] - events[0]["args"]["Bytes"]) - gradients


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=("channels_last", "contiguous_format"), default="channels_last")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
