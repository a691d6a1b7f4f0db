"""Gradient checkpoints: what is computed beside a network inside of one, and not when it runs again in the backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from angularkd.errors import InputError


def inside_checkpoint() -> bool:
    """Return whether tensors that are saved for the backward go through somebody's hooks here, as inside of a gradient checkpoint."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def saved_as_they_are() -> AbstractContextManager[object]:
    """Return a context in which tensors are saved for the backward as they are, inside of a gradient checkpoint too.

    The checkpoint runs its part of the network a second time and expects it to save as many tensors as the first time.
    """
    return saved_tensors_hooks(_unchanged, _unchanged) if inside_checkpoint() else nullcontext()


class NoFusedAttention(TorchFunctionMode):
    """While entered, refuses fused attention inside of a gradient checkpoint.

    A second derivative needs its unfused kernel, and the part that runs again in the backward would take another.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and inside_checkpoint():
            raise InputError(
                "Grad-CAM needs second derivatives of attention, which it does not have inside of gradient checkpoints: leave "
                "checkpointing out, or use another attention mechanism"
            )
        return func(*args, **(kwargs or {}))


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
