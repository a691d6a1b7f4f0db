"""The He initialisation that the CIFAR families share."""

from __future__ import annotations

from torch import nn


def he_normal_(model: nn.Module) -> None:
    """Draw every convolution of `model`, in place, from N(0, 2 / (kernel_height * kernel_width * out_channels)).

    He et al. 2015, https://arxiv.org/abs/1502.01852, equation 14 (fan-out); biases become zero. A depthwise convolution
    counts all of its output channels, as the field's code does: batch norm behind it makes up for the scale.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
