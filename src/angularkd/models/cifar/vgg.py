"""VGG networks with batch norm for small images, as the distillation literature defines them.

Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556, with the fully connected layers replaced by global average
pooling and one linear layer; Tian et al. 2020, https://arxiv.org/abs/1910.10699, and its code,
https://github.com/HobbitLong/RepDistiller, which adds the 8-layer one and pools before the fifth stage only from 64
pixels on: three times at 32 pixels, so that the last two stages work on 4x4 positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.models.cifar.initialisation import he_normal_

CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of each of the five stages, by depth."""


class VGG(nn.Module):
    """VGG-`depth` with batch norm. Its stages are `block0` ... `block4`; each ends behind a ReLU, before any pooling.

    Parameters for 100 classes: 8: 3.97 M, 11: 9.28 M, 13: 9.46 M, 16: 14.8 M, 19: 20.1 M.
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise InputError(f"a CIFAR VGG has a depth of {', '.join(map(str, CONVOLUTIONS))}, got {depth}.")
        convolutions = CONVOLUTIONS[depth]
        self.block0 = _stage(3, 64, convolutions[0])
        self.block1 = _stage(64, 128, convolutions[1])
        self.block2 = _stage(128, 256, convolutions[2])
        self.block3 = _stage(256, 512, convolutions[3])
        self.block4 = _stage(512, 512, convolutions[4])
        self.linear = nn.Linear(512, num_classes)
        he_normal_(self)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of images."""
        features = self.block0(images)
        features = self.block1(F.max_pool2d(features, 2))
        features = self.block2(F.max_pool2d(features, 2))
        features = self.block3(F.max_pool2d(features, 2))
        if min(images.shape[-2:]) >= 64:
            features = F.max_pool2d(features, 2)
        features = self.block4(features)
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def _stage(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Stack convolution (with a bias, which the literature has before batch norm), batch norm and ReLU so many times."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers)
