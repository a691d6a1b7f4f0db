"""Reads a transformer's attention while it runs, whatever its code, by intercepting the functions that compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from angularkd.errors import InputError
from angularkd.features.attention_maps import widen
from angularkd.features.checkpoints import inside_checkpoint, saved_as_they_are

SOFTMAXES = (torch.softmax, F.softmax, Tensor.softmax)


class TokenAttention(TorchFunctionMode):
    """While entered, records the class token's attention of the last self-attention, and its rollout over all of them.

    Three ways of computing attention are recognised: `scaled_dot_product_attention`, `nn.MultiheadAttention`, and a
    softmax over [batch, head, query, key]. The class token is the first. It does not work inside of `torch.compile`.

    Args:
        rollout: whether to compute the rollout too, which takes the attention between all tokens of every block.
    """

    def __init__(self, rollout: bool) -> None:
        super().__init__()
        self._rollout = rollout
        self._row: Tensor | None = None
        self._rolled: Tensor | None = None

    def row(self, rollout: bool) -> Tensor | None:
        """Return the attention from the class token to every token, [batch, tokens]; None where no attention ran."""
        if not rollout:
            return self._row
        return self._rolled[:, 0] if self._rolled is not None else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            if inside_checkpoint():
                raise InputError(
                    "the attention of an nn.MultiheadAttention inside of a gradient checkpoint cannot be read: leave checkpointing out, or "
                    "use attention=token_norm"
                )
            output, weights = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": True})
            self._record(weights)
            return output, weights if kwargs.get("need_weights", True) else None
        result = func(*args, **kwargs)
        with saved_as_they_are():
            if func is F.scaled_dot_product_attention:
                self._record(_attention(*args, **kwargs, first_query_only=not self._rollout).mean(dim=1))
            elif func in SOFTMAXES and result.ndim == 4:
                self._record(widen(result).mean(dim=1))
        return result

    def _record(self, attention: Tensor) -> None:
        """Take in attention [batch, query, key], averaged over the heads."""
        self._row = attention[:, 0]
        if not self._rollout or attention.shape[1] != attention.shape[2]:
            return
        mixed = (attention + torch.eye(attention.shape[1], device=attention.device, dtype=attention.dtype)) / 2
        fits = self._rolled is not None and self._rolled.shape == mixed.shape
        self._rolled = mixed @ self._rolled if fits and self._rolled is not None else mixed


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    first_query_only: bool,
) -> Tensor:
    """Return softmax(q k^T * scale + mask) [batch, head, query, key], as scaled_dot_product_attention computes it inside."""
    if first_query_only:
        query = query[..., :1, :]
    scores = widen(query) @ widen(key).transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        mask = attn_mask[..., : query.shape[-2], :]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)
