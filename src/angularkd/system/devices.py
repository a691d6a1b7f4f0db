"""The device that a run computes on, and the arithmetic of its networks, by Lightning Fabric."""

from __future__ import annotations

import logging
import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from angularkd.errors import InputError
from angularkd.system.logs import logging_from
from angularkd.system.ranks import count

FABRICS_LOGGER = "lightning_fabric.utilities.rank_zero"
"""It has a line about mixed precision, which config.yaml and results.json name."""


def resolve_precision(device: str, precision: str, bf16_pays: bool = False) -> str:
    """Return the precision that `auto` stands for on a device, or the one given.

    Args:
        device: auto, cpu, cuda or mps.
        precision: what was asked for; auto is bf16-mixed on GPUs that have it, and where `bf16_pays` on processors that have it.
        bf16_pays: whether what is computed is faster in bf16 on a processor with instructions for it.
    """
    if precision != "auto":
        return precision
    if on_processor(device):
        return "bf16-mixed" if bf16_pays and processor_has_bf16() else "32-true"
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def on_processor(device: str) -> bool:
    """Return whether a device, auto, cpu, cuda or mps, is the processor on this machine."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return device == "cpu" or (device == "auto" and not gpu)


def processor_has_bf16() -> bool:
    """Return whether the processor has instructions for products of bf16: AVX-512 BF16 or AMX. False where PyTorch cannot tell."""
    capabilities: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # which old versions of PyTorch lack
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def bf16_is_slow(device: str) -> bool:
    """Return whether products of bf16 are emulated on a device, which takes two to four times as long as those of float32."""
    return on_processor(device) and not processor_has_bf16()


def open_fabric(device: str, precision: str, *, shared: bool = False) -> Fabric:
    """Return a Fabric for one device.

    Args:
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        shared: whether modules that it sets up are trained by all processes that have joined (`angularkd.system.ranks`), each on its
            device: then they are wrapped in DistributedDataParallel.

    Raises:
        InputError: for a device that this machine lacks, and for 16-mixed on the CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device that PyTorch can use: leave `device` at auto, or use cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("this machine has no Apple GPU that PyTorch can use: leave `device` at auto, or use cpu")
    if precision == "16-mixed" and on_processor(device):
        raise InputError("`precision=16-mixed` needs a GPU: use bf16-mixed or 32-true on the CPU")
    if not shared or count() == 1:
        with logging_from(logging.WARNING, FABRICS_LOGGER):
            return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]
    here = min(int(os.environ.get("LOCAL_WORLD_SIZE", count())), count())
    with logging_from(logging.WARNING, FABRICS_LOGGER):
        fabric = Fabric(
            accelerator=device,
            devices=here,
            num_nodes=count() // here,
            strategy=_ReplicaStrategy(find_unused_parameters=True, broadcast_buffers=False),
            precision=precision,  # type: ignore[arg-type]
        )
    fabric.launch()
    return fabric


class _ReplicaStrategy(DDPStrategy):
    """DistributedDataParallel that leaves its inputs where they are: row numbers stay on the host, where a cache reads them."""

    def _determine_ddp_device_ids(self) -> list[int] | None:
        return None


def place(module: nn.Module, device: torch.device) -> None:
    """Move a module to the device with its weights laid out channels last, the faster layout for convolutions."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
