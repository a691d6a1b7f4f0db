"""Wide residual networks, WRN-d-k, for small images.

Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146: pre-activation blocks of two 3x3 convolutions, depth
d = 6n + 4, k times the 16, 32 and 64 channels of a ResNet. Without dropout, as the distillation literature has them.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.models.cifar.initialisation import he_normal_


class WideResNet(nn.Module):
    """WRN-`depth`-`width`. Its stages are `block1`, `block2`, `block3`; each ends in a sum, before batch norm and ReLU.

    Parameters for 10 classes: 16-1: 0.18 M, 16-2: 0.69 M, 40-1: 0.56 M, 40-2: 2.2 M, 16-8: 11.0 M, 28-10: 36.5 M.
    """

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth, width)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, 16 * width, blocks, stride=1)
        self.block2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.linear = nn.Linear(64 * width, num_classes)
        he_normal_(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of images."""
        features = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.linear(F.relu(self.bn1(features)).mean(dim=(2, 3)))
        return logits


class PreActivationBlock(nn.Module):
    """conv(relu(bn(conv(relu(bn(x)))))) + x, or + a 1x1 convolution of relu(bn(x)) where the channels change."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same_shape = in_channels == channels and stride == 1
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Float[Tensor, "batch in_channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the sum of the residual branch and the shortcut, which no activation follows."""
        activated = F.relu(self.bn1(x))
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(PreActivationBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _blocks_per_stage(depth: int, width: int) -> int:
    """Return n of depth = 6n + 4; raise InputError, with the depths nearby, where there is none."""
    blocks, remainder = divmod(depth - 4, 6)
    if blocks < 1 or remainder:
        below = 4 + 6 * max(blocks, 1)
        raise InputError(
            f"the depth of a wide ResNet is 6n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth} in wrn_{depth}_{width}:"
            f" take wrn_{below}_{width} or wrn_{below + 6}_{width}."
        )
    if width < 1:
        raise InputError(f"the width of a wide ResNet is 1 or more, got {width}: take wrn_{depth}_1.")
    return blocks
