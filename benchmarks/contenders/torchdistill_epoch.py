"""Images a second of torchdistill (https://github.com/yoshitomo-matsubara/torchdistill) over whole training epochs.

    pip install -c constraints.txt torchdistill

The teacher, the student and the images are ours; all else is torchdistill's own, put together as its
examples/torchvision/image_classification.py does: a DistillationBox made from a configuration, its data loader, forward
hooks, WeightedSumLoss, KDLoss (0.1 CE + 0.9 KD at T = 4), optimizer, and the loop with its MetricLogger, which reads the
loss after every step. Beyond the example's own way: the teacher is put into eval mode, which torchdistill leaves to the
caller, and the loader's workers persist from epoch to epoch. With --channels-last its user also puts models and images
into that memory format, which torchdistill and its example do not; without it a comparison with an engine that does
measures the format too.

torchdistill has no AMD loss; the one here is registered as its documentation asks and computed as the authors of AMD do.
An epoch lasts from the request of the first batch to the end of the last optimizer step. Spoken to as in serving.py.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from torchdistill.core.distillation import DistillationBox, get_distillation_box
from torchdistill.losses.registry import register_mid_level_loss
from torchdistill.misc.log import MetricLogger, SmoothedValue

from eager_amd import published
from serving import Epoch, serve
from setting import AMD, CE, KD, SGD, TEMPERATURE, Setting, open_setting, rival_parser_of

WHOLE_MODEL = {"path": ".", "io": "output"}


def main() -> None:
    options = rival_parser_of(__doc__).parse_args()
    serve(lambda: prepare(options), "torchvision", "torchdistill")


def prepare(options: argparse.Namespace) -> Epoch:
    setting = open_setting(options)
    box = get_distillation_box(
        setting.teacher.eval(),
        setting.student,
        {"train": setting.images},
        configuration(options, setting),
        torch.device(options.device),
        None,
        distributed=False,
        lr_factor=1,
    )
    numbers = itertools.count()

    def epoch() -> float:
        number = next(numbers)
        box.pre_epoch_process(epoch=number)
        speed = train_one_epoch(box, number, setting.layout, options.device)
        box.post_epoch_process()
        return speed

    return epoch


def train_one_epoch(box: DistillationBox, epoch: int, layout: torch.memory_format, device: str) -> float:
    """Images a second, up to the last optimizer step, of the loop in torchdistill's example."""
    meters = MetricLogger(delimiter="  ")
    meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    meters.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
    seen = 0
    started = finished = time.perf_counter()
    for images, labels, extra in meters.log_every(box.train_data_loader, 100, f"Epoch: [{epoch}]"):
        step_started = time.time()
        images, labels = images.to(device, memory_format=layout), labels.to(device)
        loss = box.forward_process(images, labels, extra)
        box.post_forward_process(loss=loss)
        finished = time.perf_counter()
        seen += len(images)
        meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        meters.meters["img/s"].update(len(images) / (time.time() - step_started))
        if not torch.isfinite(loss):
            raise ValueError(f"training broke: the loss is {loss.item()}")
    return seen / (finished - started)


@register_mid_level_loss
class AMDLoss(nn.Module):
    """AMD of the paired stages' outputs (`eager_amd.published`)."""

    def __init__(self, stages: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], *_: Any) -> Tensor:
        theirs = [teacher[path]["output"] for path, _ in self.stages]
        return published([student[path]["output"] for _, path in self.stages], theirs)


def configuration(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """What a YAML file of torchdistill holds below `train`."""
    logits = {f"{who}_module_{key}": value for who in ("student", "teacher") for key, value in WHOLE_MODEL.items()}
    kd = {"key": "KDLoss", "kwargs": {**logits, "temperature": TEMPERATURE, "alpha": CE, "reduction": "batchmean"}}
    amd = {"key": "AMDLoss", "kwargs": {"stages": setting.stages}}
    terms = {"kd": {"criterion": kd, "weight": CE + KD}, "amd": {"criterion": amd, "weight": AMD}}
    hooks = [{"input": [], "output": [pair[role] for pair in setting.stages]} for role in (0, 1)]
    loader = {"batch_size": options.batch_size, "num_workers": options.workers, "drop_last": True}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {**loader, "persistent_workers": options.workers > 0},
        },
        "teacher": {"forward_proc": "forward_batch_only", "forward_hook": hooks[0], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "forward_hook": hooks[1], "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": SGD},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }


if __name__ == "__main__":
    main()
