"""A student of your own: plain PyTorch, nothing of angularkd in it.

    angularkd train digits --model cifar/resnet20 --epochs 10 --out runs/teacher
    angularkd distill digits --teacher runs/teacher --student examples/custom_model.py:SmallNet --epochs 10
    angularkd demo --student examples/custom_model.py:SmallNet --seeds 3

The last of them ends in a table, after a minute and a half at most: this network from scratch, with KD, and with KD and AMD.

A model is FILE.py:CALLABLE: a class or a function that returns a torch.nn.Module from images [batch, 3, height, width] to
logits [batch, num_classes]. If it takes `num_classes`, it gets the data's; every other argument needs a default.
The folder of such a run is a model again where the command allows its code by `--trust examples/custom_model.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class SmallNet(nn.Module):
    """Three stages of two convolutions each; each stage halves the maps of the one before."""

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(block(3, width, 1), block(width, width, 1))
        self.stage2 = nn.Sequential(block(width, 2 * width, 2), block(2 * width, 2 * width, 1))
        self.stage3 = nn.Sequential(block(2 * width, 4 * width, 2), block(4 * width, 4 * width, 1))
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(images)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1))


def tiny_net(num_classes: int) -> nn.Module:
    """The same with half the channels: a function will do as well."""
    return SmallNet(num_classes, width=8)
