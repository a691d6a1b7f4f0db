"""ShuffleNet V1 (3 groups) and V2 (width 1) for small images, as the distillation literature defines them.

Zhang et al. 2017, https://arxiv.org/abs/1707.01083, and Ma et al. 2018, https://arxiv.org/abs/1807.11164, in the CIFAR
versions of https://github.com/HobbitLong/RepDistiller: the stem is one 1x1 convolution at full resolution, without
pooling, and V1 has a ReLU behind its depthwise convolution too. Weights start as PyTorch draws them, as there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STEM_CHANNELS = 24
UNITS = (4, 8, 4)
"""Units of each of the three stages; the first of a stage halves the resolution."""


class ShuffleNetV1(nn.Module):
    """ShuffleNet V1 of 3 groups. Its stages are `layer1`, `layer2`, `layer3`; each ends behind a ReLU.

    0.95 M parameters for 100 classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _convolution(3, STEM_CHANNELS, 1)
        self.layer1 = _stage_v1(STEM_CHANNELS, 240, UNITS[0])
        self.layer2 = _stage_v1(240, 480, UNITS[1])
        self.layer3 = _stage_v1(480, 960, UNITS[2])
        self.linear = nn.Linear(960, num_classes)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of images."""
        features = F.relu(self.stem(images))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 of width 1. Its stages are `layer1`, `layer2`, `layer3`; each ends in a channel shuffle.

    1.36 M parameters for 100 classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _convolution(3, STEM_CHANNELS, 1)
        self.layer1 = _stage_v2(STEM_CHANNELS, 116, UNITS[0])
        self.layer2 = _stage_v2(116, 232, UNITS[1])
        self.layer3 = _stage_v2(232, 464, UNITS[2])
        self.head = _convolution(464, 1024, 1)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of images."""
        features = F.relu(self.stem(images))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(F.relu(self.head(features)).mean(dim=(2, 3)))
        return logits


class UnitV1(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1; the input is added, or pooled and concatenated.

    `halves` says that the unit halves the resolution: then its pooled input supplies `in_channels` of its `channels`.
    The first 1x1 convolution of the network has one group, because its input has few channels.
    """

    groups = 3

    def __init__(self, in_channels: int, channels: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        branch_channels = channels - in_channels if halves else channels
        bottleneck = branch_channels // 4
        self.shuffled_groups = 1 if in_channels == STEM_CHANNELS else self.groups
        self.compress = _convolution(in_channels, bottleneck, 1, groups=self.shuffled_groups)
        self.depthwise = _convolution(bottleneck, bottleneck, 3, stride=2 if halves else 1, groups=bottleneck)
        self.expand = _convolution(bottleneck, branch_channels, 1, groups=self.groups)

    def forward(self, x: Float[Tensor, "batch in_channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the activated features of the branch, with the input added or, pooled, concatenated."""
        compressed = F.channel_shuffle(F.relu(self.compress(x)), self.shuffled_groups)
        branch = self.expand(F.relu(self.depthwise(compressed)))
        if self.halves:
            return F.relu(torch.cat([branch, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))
        return F.relu(branch + x)


class UnitV2(nn.Module):
    """One half of the channels passes, the other goes through 1x1, depthwise 3x3, 1x1; both are shuffled together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = _branch_v2(half, half, stride=1)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        """Return both halves of the channels, one of them convolved, shuffled together."""
        passed, processed = x.chunk(2, dim=1)
        return F.channel_shuffle(torch.cat([passed, self.branch(processed)], dim=1), 2)


class DownUnitV2(nn.Module):
    """Two branches of stride 2, each giving half of the channels, shuffled together."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.shortcut = nn.Sequential(
            _convolution(in_channels, in_channels, 3, stride=2, groups=in_channels),
            _convolution(in_channels, half, 1),
            nn.ReLU(),
        )
        self.branch = _branch_v2(in_channels, half, stride=2)

    def forward(self, x: Float[Tensor, "batch in_channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the channels of both branches, shuffled together, at half the resolution."""
        return F.channel_shuffle(torch.cat([self.shortcut(x), self.branch(x)], dim=1), 2)


def _stage_v1(in_channels: int, channels: int, units: int) -> nn.Sequential:
    first = UnitV1(in_channels, channels, halves=True)
    return nn.Sequential(first, *(UnitV1(channels, channels, halves=False) for _ in range(units - 1)))


def _stage_v2(in_channels: int, channels: int, units: int) -> nn.Sequential:
    return nn.Sequential(DownUnitV2(in_channels, channels), *(UnitV2(channels) for _ in range(units - 1)))


def _branch_v2(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, channels, 1),
        nn.ReLU(),
        _convolution(channels, channels, 3, stride=stride, groups=channels),
        _convolution(channels, channels, 1),
        nn.ReLU(),
    )


def _convolution(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )
