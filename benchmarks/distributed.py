"""Compare the first step of several processes, each with its part of the batch, with that of one that has all of it.

    torchrun --nproc-per-node 2 benchmarks/distributed.py parquet:data/cifar10 --teacher-weights weights/cifar10_resnet56.safetensors

Losses (CE, KD, attention transfer, VID) and gradients of a ResNet-8 that learns from a ResNet-56, in float32 and float64, on the first
batch of an epoch with flips: with batch normalisation over all processes, with its statistics held still, and with each process's own.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from angularkd import Distiller
from angularkd.config import DistillConfig
from angularkd.system import ranks
from angularkd.system.devices import open_fabric
from angularkd.system.modes import seeded
from angularkd.training import build_distillation, open_dataset
from angularkd.training.replica import Replica
from angularkd.training.sync_batchnorm import synchronise
from angularkd.types import Batch

KINDS = ("synchronised", "still", "each its own")


def compare(
    made: Distiller, whole: Batch, part: Batch, dtype: torch.dtype, kind: str
) -> tuple[float, float, torch.Tensor]:
    """Return by how much, relatively, the loss and the gradient of a step in parts differ from the whole one, and the whole gradient."""
    made = copy.deepcopy(made).to(dtype).train()
    made.teacher.module.to(dtype)
    if kind == "synchronised":
        synchronise(made.student, "the student")
    for layer in made.student.modules():
        layer.train(kind != "still" or not isinstance(layer, _BatchNorm))
    with ranks.alone():
        alone = copy.deepcopy(made)
        out = alone(whole.images.to(dtype), whole.labels, whole.indices, None)
        out.total.backward()
    fabric = open_fabric("cpu", "32-true", shared=True)
    replica, _ = fabric.setup(Replica(made), torch.optim.SGD(made.parameters(), lr=0.1), move_to_device=False)
    ours = replica(part.images.to(dtype), part.labels, part.indices, None)
    fabric.backward(ours.total)
    loss = float(ranks.total(ours.total.detach())) / ranks.count()
    pairs = [(one.grad, other.grad) for one, other in zip(alone.parameters(), made.parameters(), strict=True)]
    gradient = torch.cat([one.flatten() for one, _ in pairs if one is not None])
    found = torch.cat([other.flatten() for one, other in pairs if one is not None])
    difference = float((found - gradient).norm() / gradient.norm())
    return abs(loss / float(out.total.detach()) - 1), difference, gradient.double()


def main() -> None:
    """Print a row for each way of batch normalisation and each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher-weights", required=True)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    losses = {"ce": 1.0, "kd": 1.0, "at": 100.0, "vid": 0.1}
    config = DistillConfig.from_options(
        data=options.data, teacher="cifar/resnet56", teacher_weights=options.teacher_weights, student="cifar/resnet8", loss=losses,
        augment=("flip",), batch_size=options.batch_size, device="cpu", precision="32-true",
    )  # fmt: skip
    with ranks.joined("cpu"), seeded(0):
        job = build_distillation(config, open_dataset(config))
        batches = job.batches.part_of_batches(ranks.number(), ranks.count())
        whole, part = next(job.batches.epoch(0)), next(batches.epoch(0))
        for kind in KINDS:
            exact = torch.empty(0)
            for dtype in (torch.float64, torch.float32):
                loss, gradient, whole_gradient = compare(job.distiller, whole, part, dtype, kind)
                exact = whole_gradient if dtype == torch.float64 else exact
                rounding = float((whole_gradient - exact).norm() / exact.norm())
                if ranks.number() == 0:
                    found = f"loss off by {loss:.1e}, gradient by {gradient:.1e}"
                    print(f"{kind:<14} {dtype!s:<14} {found} (one process by rounding: {rounding:.1e})", flush=True)


if __name__ == "__main__":
    main()
