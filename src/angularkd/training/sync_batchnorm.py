"""Batch normalisation over the images of all processes of a run, which is what one process would compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from angularkd.errors import InputError
from angularkd.system.ranks import together

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
WITH_ACTIVATION = "BatchNormAct2d"
"""The class of timm that has dropout and an activation behind its normalisation."""


# PyTorch's SyncBatchNorm computes on GPUs alone, and would wait for others where a process computes alone.


class SyncedBatchNorm(_BatchNorm):
    """Batch normalisation over all processes, by differentiable sums; in a process that computes alone, over what is there."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [batch, channel, ...] normalised by the mean and the variance of each channel over all processes."""
        return self._over_processes(input) if self.training and together() else super().forward(input)

    def _over_processes(self, images: Tensor) -> Tensor:
        rest = [axis for axis in range(images.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(images.ndim)]
        here = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
        sums = _total(torch.cat([here.sum(rest), here.new_tensor([here.numel() // here.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = here - mean.view(shape)
        variance = _total((centred * centred).sum(rest)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.to(scale.dtype)
        out = centred * scale.view(shape)
        return (out + self.bias.to(out.dtype).view(shape) if self.bias is not None else out).to(images.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take images, sequences and volumes."""

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _total(value: Tensor) -> Tensor:
    """Return the sum over the processes, through which gradients flow back to all of them."""
    from torch.distributed.nn.functional import all_reduce  # which PyTorch may have been built without

    return all_reduce(value)  # type: ignore[no-untyped-call]


class _WithActivation(SyncedBatchNorm):
    """The same with what timm's layer has behind it."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [batch, channel, height, width] normalised, dropped out and activated."""
        return self.act(self.drop(super().forward(input)))  # type: ignore[operator]


def synchronise(module: nn.Module, spec: str) -> None:
    """Put synchronised layers in the places of a module's batch normalisation; they share its parameters and statistics.

    Args:
        module: changed in place.
        spec: what a message calls it.

    Raises:
        InputError: for layers of other classes than PyTorch's and timm's.
    """
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise(child, spec)
        elif not isinstance(child, SyncedBatchNorm):
            setattr(module, name, _synchronised(child, spec))


def _synchronised(layer: _BatchNorm, spec: str) -> SyncedBatchNorm:
    activated = type(layer).__name__ == WITH_ACTIVATION
    if type(layer) not in PLAIN and not activated:
        raise InputError(
            f"`sync_batchnorm` knows the layers of PyTorch and timm, and {spec} has one of the class {type(layer).__name__}: leave it out"
        )
    kind = _WithActivation if activated else SyncedBatchNorm
    own: Any = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(own, name, getattr(layer, name))
    for name in ("drop", "act") if activated else ():
        setattr(own, name, getattr(layer, name))
    own.train(layer.training)
    synchronised: SyncedBatchNorm = own
    return synchronised
