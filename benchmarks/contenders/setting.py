"""What all contenders share: options, images, models, paired stages and the recipe; how they train with it is their own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from angularkd.data import ResidentImages, channel_stats, load_resident, open_data
from angularkd.features import pair_models, trace
from angularkd.models import open_classifier

CE, KD, TEMPERATURE, AMD = 0.1, 0.9, 4.0, 5000.0
OBJECTIVE = {"ce": CE, "kd": {"weight": KD, "temperature": TEMPERATURE}, "amd": AMD}
"""As angularkd takes it."""
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


class Images(Dataset[tuple[Tensor, int]]):
    """Decoded images, each a PIL image on its way through torchvision's usual transforms."""

    def __init__(self, resident: ResidentImages) -> None:
        self.pixels: np.ndarray = resident.pixels.numpy()
        self.labels = resident.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(*channel_stats(resident))]
        )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Setting:
    """What a rival starts from.

    layout: the memory format that its models are in, and its images are to be brought to.
    stages: paths of the paired modules, teacher's and student's; the pairs are those that angularkd makes.
    """

    images: Images
    teacher: nn.Module
    student: nn.Module
    layout: torch.memory_format
    stages: tuple[tuple[str, str], ...]

    def loader(self, options: argparse.Namespace) -> DataLoader[tuple[Tensor, int]]:
        """PyTorch's loader of the images, as its documentation advises."""
        return DataLoader(
            self.images,
            options.batch_size,
            shuffle=True,
            num_workers=options.workers,
            drop_last=True,
            persistent_workers=options.workers > 0,
            pin_memory=options.device == "cuda",
        )


def open_setting(options: argparse.Namespace) -> Setting:
    """The training images decoded into memory, and both models, untrained and still in training mode."""
    torch.manual_seed(0)
    dataset = open_data(options.data)
    resident = load_resident(dataset.train)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    teacher, student = (
        open_classifier(spec, len(dataset.classes)).module.to(options.device, memory_format=layout)
        for spec in (options.teacher, options.student)
    )
    example = torch.zeros(1, 3, *resident.image_size, device=options.device)
    pairs = pair_models(teacher, student, trace(teacher, example), trace(student, example))
    return Setting(
        Images(resident), teacher, student, layout, tuple((pair.teacher.path, pair.student.path) for pair in pairs)
    )


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """With the options of every contender."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a SPEC as angularkd takes it; its training images are used")
    parser.add_argument("--teacher", default="cifar/wrn_16_3")
    parser.add_argument("--student", default="cifar/wrn_16_1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def rival_parser_of(description: str | None) -> argparse.ArgumentParser:
    """With those of the rivals, too."""
    parser = parser_of(description)
    parser.add_argument("--workers", type=int, default=2, help="processes of the data loader")
    parser.add_argument("--channels-last", action="store_true", help="models and images in channels_last memory")
    return parser
