"""ResNets for small images, and the four times wider ones of the distillation literature.

He et al. 2015, "Deep residual learning for image recognition", https://arxiv.org/abs/1512.03385, section 4.2: a 3x3
stem, three stages of n basic blocks at full, half and quarter resolution, depth 6n + 2, global average pooling.

One name means two networks in this field. `resnet20` is He et al.'s here, with the parameter-free shortcut (option A):
269,722 parameters for 10 classes. RepDistiller's `resnet8` ... `resnet110`, and the tables made with them, project with
1x1 convolutions instead, and have 2,752 parameters more. `resnet8x4` and `resnet32x4` exist in the literature alone, so
they project here too.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.models.cifar.initialisation import he_normal_


class ResNet(nn.Module):
    """A ResNet of depth 6n + 2. Its stages are `layer1`, `layer2`, `layer3`; each ends behind a ReLU.

    Args:
        depth: 6n + 2, for n blocks a stage.
        num_classes: of the logits.
        widths: channels of the stem and of the three stages.
        projection: True for a 1x1 convolution with batch norm where a block changes its shape (option B),
            False for subsampling and zero channels (option A).

    Raises:
        InputError: for another depth.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        projection: bool = False,
    ) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if blocks < 1 or remainder:
            raise InputError(f"a CIFAR ResNet has a depth of 6n + 2, got {depth}: take 8, 14, 20, 32, 44, 56 or 110.")
        stem, first, second, third = widths
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, first, blocks, stride=1, projection=projection)
        self.layer2 = _stage(first, second, blocks, stride=2, projection=projection)
        self.layer3 = _stage(second, third, blocks, stride=2, projection=projection)
        self.linear = nn.Linear(third, num_classes)
        he_normal_(self)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of images."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def resnet(depth: int, num_classes: int) -> ResNet:
    """Build He et al.'s network. For 10 classes: 20: 0.27 M, 32: 0.46 M, 44: 0.66 M, 56: 0.85 M, 110: 1.7 M parameters.

    The keys of its state dict are those of https://github.com/akamaster/pytorch_resnet_cifar10.
    """
    return ResNet(depth, num_classes)


def resnet_x4(depth: int, num_classes: int) -> ResNet:
    """Build the wide ResNet of the distillation literature. For 100 classes: 8: 1.23 M, 32: 7.43 M parameters.

    Tian et al. 2020, "Contrastive representation distillation", https://arxiv.org/abs/1910.10699, and its code,
    https://github.com/HobbitLong/RepDistiller (which calls `fc` what is `linear` here; the other keys are equal).
    """
    return ResNet(depth, num_classes, widths=(32, 64, 128, 256), projection=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(bn(conv(relu(bn(conv(x))))) + downsample(x))."""

    def __init__(self, in_channels: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride, projection)

    def forward(self, x: Float[Tensor, "batch in_channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the activated sum of the residual branch and the shortcut."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.downsample(x))


class SubsampleAndPad(nn.Module):
    """Option A of He et al.: every `stride`-th pixel, and zero channels on both sides; no parameters.

    Pixel 0 is among them, so an odd size rounds up, as it does in a padded 3x3 convolution of the same stride.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels_before = (channels - in_channels) // 2
        self.channels_after = channels - in_channels - self.channels_before

    def forward(self, x: Float[Tensor, "batch in_channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return every `stride`-th pixel, with zero channels on both sides."""
        sampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(sampled, (0, 0, 0, 0, self.channels_before, self.channels_after))


def _shortcut(in_channels: int, channels: int, stride: int, projection: bool) -> nn.Module:
    if in_channels == channels and stride == 1:
        return nn.Identity()
    if projection:
        return nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(channels),
        )
    return SubsampleAndPad(in_channels, channels, stride)


def _stage(in_channels: int, channels: int, blocks: int, stride: int, projection: bool) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, projection)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1, projection) for _ in range(blocks - 1)))
