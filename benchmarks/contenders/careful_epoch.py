"""Images a second of distillation as a careful engineer writes it in plain PyTorch, compiled, over whole training epochs.

As in plain_epoch.py, and beyond it: models and images in channels_last, teacher, student and losses under one `torch.compile`,
AMD in its stable form (`eager_amd.stable`), a fused optimizer, torchvision's feature extractor in place of hooks, and with
--precision bf16 autocast. What it does not do is what takes an engine: keep images decoded in one tensor and augment them
by batches, and store what the teacher says.

An epoch lasts from the request of the first batch to the end of the last optimizer step. Spoken to as in serving.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.feature_extraction import create_feature_extractor

from eager_amd import stable
from plain_epoch import kd
from serving import Epoch, serve
from setting import AMD, CE, KD, SGD, open_setting, rival_parser_of


def main() -> None:
    parser = rival_parser_of(__doc__)
    parser.set_defaults(channels_last=True)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    options = parser.parse_args()
    serve(lambda: prepare(options), "torchvision")


def prepare(options: argparse.Namespace) -> Epoch:
    setting = open_setting(options)
    loader = setting.loader(options)
    teacher = features_of(setting.teacher.eval(), [path for path, _ in setting.stages])
    student = features_of(setting.student.train(), [path for _, path in setting.stages])
    optimizer = torch.optim.SGD(student.parameters(), fused=True, **SGD)
    half = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")

    @torch.compile(mode="reduce-overhead" if options.device == "cuda" else "default")
    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with half:
            with torch.no_grad():
                *theirs, teacher_logits = teacher(images).values()
            *ours, student_logits = student(images).values()
        theirs, ours = ([one.float() for one in features] for features in (theirs, ours))
        loss = CE * cross_entropy(student_logits.float(), labels)
        return loss + KD * kd(student_logits.float(), teacher_logits.float()) + AMD * stable(ours, theirs)

    def epoch() -> float:
        started, seen = time.perf_counter(), 0
        for images, labels in loader:
            images = images.to(options.device, non_blocking=True, memory_format=setting.layout)
            loss = loss_of(images, labels.to(options.device, non_blocking=True))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += len(images)
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if not torch.isfinite(loss):
            raise ValueError(f"training broke: the loss is {loss.item()}")
        return seen / seconds

    return epoch


def features_of(model: nn.Module, paths: Sequence[str]) -> nn.Module:
    """The outputs of some modules of a model, and last its logits."""
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    return create_feature_extractor(model, [*paths, head])


if __name__ == "__main__":
    main()
