"""Images a second of distillation as a careful researcher writes it in plain PyTorch, over whole training epochs.

A data set of PIL images with torchvision's transforms, a DataLoader whose workers persist, forward hooks on the paired
stages, the teacher in eval mode and without gradients, CE, KD, AMD as its authors compute it, SGD; nothing waits for the
loss before the epoch ends. With --channels-last models and images are in that memory format.

An epoch lasts from the request of the first batch to the end of the last optimizer step. Spoken to as in serving.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from eager_amd import published
from serving import Epoch, serve
from setting import AMD, CE, KD, SGD, TEMPERATURE, open_setting, rival_parser_of


def main() -> None:
    options = rival_parser_of(__doc__).parse_args()
    serve(lambda: prepare(options), "torchvision")


def prepare(options: argparse.Namespace) -> Epoch:
    setting = open_setting(options)
    loader = setting.loader(options)
    teacher, student = setting.teacher.eval(), setting.student.train()
    theirs = Features(teacher, [path for path, _ in setting.stages])
    ours = Features(student, [path for _, path in setting.stages])
    optimizer = torch.optim.SGD(student.parameters(), **SGD)

    def epoch() -> float:
        started, seen = time.perf_counter(), 0
        for images, labels in loader:
            images = images.to(options.device, non_blocking=True, memory_format=setting.layout)
            labels = labels.to(options.device, non_blocking=True)
            with torch.no_grad():
                teacher_logits = teacher(images)
            student_logits = student(images)
            loss = CE * cross_entropy(student_logits, labels) + KD * kd(student_logits, teacher_logits)
            loss = loss + AMD * published(ours.seen, theirs.seen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(images)
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if not torch.isfinite(loss):
            raise ValueError(f"training broke: the loss is {loss.item()}")
        return seen / seconds

    return epoch


class Features:
    """What some modules of a model gave in its last forward."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._by_path: dict[str, Tensor] = {}
        self._paths = paths
        for path in paths:
            model.get_submodule(path).register_forward_hook(
                lambda _module, _inputs, output, path=path: self._by_path.update({path: output})
            )

    @property
    def seen(self) -> list[Tensor]:
        return [self._by_path[path] for path in self._paths]


def kd(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    own, target = log_softmax(student_logits / TEMPERATURE, 1), softmax(teacher_logits / TEMPERATURE, 1)
    return kl_div(own, target, reduction="batchmean") * TEMPERATURE**2


if __name__ == "__main__":
    main()
