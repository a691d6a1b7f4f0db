"""The device that a run computes on, and the arithmetic of its networks, by Lightning Fabric."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import nn

from angularkd.errors import InputError


def resolve_precision(device: str, precision: str) -> str:
    """Return the precision that `auto` stands for on a device (bf16-mixed on GPUs that have it, else 32-true), or the one given."""
    if precision != "auto":
        return precision
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def open_fabric(device: str, precision: str) -> Fabric:
    """Return a Fabric for one device.

    Args:
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.

    Raises:
        InputError: for a device that this machine lacks, and for 16-mixed on the CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device that PyTorch can use: leave `device` at auto, or use cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("this machine has no Apple GPU that PyTorch can use: leave `device` at auto, or use cpu")
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if precision == "16-mixed" and on_cpu:
        raise InputError("`precision=16-mixed` needs a GPU: use bf16-mixed or 32-true on the CPU")
    return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]


def place(module: nn.Module, device: torch.device) -> None:
    """Move a module to the device with its weights laid out channels last, the faster layout for convolutions."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
