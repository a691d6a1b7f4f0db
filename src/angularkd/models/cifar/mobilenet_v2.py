"""MobileNetV2 for small images, as the distillation literature defines it.

Sandler et al. 2018, https://arxiv.org/abs/1801.04381, in the version of Jin et al. 2019, "Knowledge distillation via
route constrained optimization", https://arxiv.org/abs/1904.09149, that https://github.com/HobbitLong/RepDistiller uses.
It departs from the paper in four ways: the second group of blocks has stride 1 (16 times smaller at the end, not 32),
ReLU stands for ReLU6, the first block expands too (by 1), and there is no dropout.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from angularkd.models.cifar.initialisation import he_normal_

STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
"""One row a resolution, of groups of blocks: expansion, channels at full width, blocks, stride of the first block."""

HEAD_CHANNELS = 1280


class MobileNetV2(nn.Module):
    """MobileNetV2 of a width of at most 1. Its stages are `stage1` ... `stage4`; each ends in a linear bottleneck.

    At half width: 0.81 M parameters for 100 classes.
    """

    def __init__(self, width: float, num_classes: int) -> None:
        super().__init__()
        channels = int(32 * width)
        self.stem = _convolution(3, channels, 3, stride=2)
        self.stage1, channels = _stage(channels, STAGES[0], width)
        self.stage2, channels = _stage(channels, STAGES[1], width)
        self.stage3, channels = _stage(channels, STAGES[2], width)
        self.stage4, channels = _stage(channels, STAGES[3], width)
        self.head = _convolution(channels, HEAD_CHANNELS, 1)
        self.linear = nn.Linear(HEAD_CHANNELS, num_classes)
        he_normal_(self)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of images."""
        features = self.stage2(self.stage1(self.stem(images)))
        features = self.head(self.stage4(self.stage3(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter by a depthwise 3x3, project by a linear 1x1 convolution; add x if its shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = _convolution(in_channels, hidden, 1)
        self.depthwise = _convolution(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.adds_input = stride == 1 and in_channels == channels

    def forward(self, x: Float[Tensor, "batch in_channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the projected features, with the input added where it has their shape."""
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + projected if self.adds_input else projected


def _stage(in_channels: int, groups: tuple[tuple[int, int, int, int], ...], width: float) -> tuple[nn.Sequential, int]:
    """Return the blocks of one resolution, and how many channels leave them."""
    blocks: list[nn.Module] = []
    for expansion, full_channels, repeats, stride in groups:
        channels = int(full_channels * width)
        for repeat in range(repeats):
            blocks.append(InvertedResidual(in_channels, channels, stride if repeat == 0 else 1, expansion))
            in_channels = channels
    return nn.Sequential(*blocks), in_channels


def _convolution(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
