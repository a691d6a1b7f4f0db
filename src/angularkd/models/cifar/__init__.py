"""The networks that the distillation literature trains on small images, by name.

Each takes images of any size from 16 pixels on, gives logits, and consists of a stem, a few stages (one module each,
named in its class's docstring, whose output is the stage's features) and `linear`. Nothing works in place: whatever a
hook stores stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.models.cifar.mobilenet_v2 import MobileNetV2
from angularkd.models.cifar.resnet import resnet, resnet_x4
from angularkd.models.cifar.shufflenet import ShuffleNetV1, ShuffleNetV2
from angularkd.models.cifar.vgg import VGG
from angularkd.models.cifar.wide_resnet import WideResNet

__all__ = ["MODELS", "create"]

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet8": partial(resnet, 8),
    "resnet14": partial(resnet, 14),
    "resnet20": partial(resnet, 20),
    "resnet32": partial(resnet, 32),
    "resnet44": partial(resnet, 44),
    "resnet56": partial(resnet, 56),
    "resnet110": partial(resnet, 110),
    "resnet8x4": partial(resnet_x4, 8),
    "resnet32x4": partial(resnet_x4, 32),
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_16_3": partial(WideResNet, 16, 3),
    "wrn_16_4": partial(WideResNet, 16, 4),
    "wrn_16_8": partial(WideResNet, 16, 8),
    "wrn_28_1": partial(WideResNet, 28, 1),
    "wrn_28_3": partial(WideResNet, 28, 3),
    "wrn_28_10": partial(WideResNet, 28, 10),
    "wrn_40_1": partial(WideResNet, 40, 1),
    "wrn_40_2": partial(WideResNet, 40, 2),
    "wrn_40_4": partial(WideResNet, 40, 4),
    "vgg8": partial(VGG, 8),
    "vgg11": partial(VGG, 11),
    "vgg13": partial(VGG, 13),
    "vgg16": partial(VGG, 16),
    "vgg19": partial(VGG, 19),
    "mobilenet_v2_half": partial(MobileNetV2, 0.5),
    "shufflenet_v1": ShuffleNetV1,
    "shufflenet_v2": ShuffleNetV2,
}
"""Constructors by name; each takes the number of classes. `create` knows every other wide ResNet, wrn_D_K, too."""


def create(name: str, num_classes: int) -> nn.Module:
    """Build the network called `name`, freshly initialised, with `num_classes` logits.

    Args:
        name: in MODELS, or any `wrn_D_K`.
        num_classes: 1 or more.

    Raises:
        InputError: for another name, for a depth that the family does not have, and for less than one class.
    """
    if num_classes < 1:
        raise InputError(f"a classifier has 1 class or more, got num_classes={num_classes} for cifar/{name}.")
    if name in MODELS:
        return MODELS[name](num_classes)
    if wide := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        return WideResNet(int(wide[1]), int(wide[2]), num_classes)
    raise InputError(
        f"expected the name of a CIFAR model, got {name!r}.{nearest(name, MODELS)}"
        " `angularkd list models 'cifar/*'` shows all; wide ResNets are wrn_DEPTH_WIDTH."
    )
