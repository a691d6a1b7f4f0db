"""Rows of all processes of a distributed training, for losses that remember samples: each process must remember the same."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed


@torch.no_grad()
def gather_rows(rows: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """Return the rows of all processes of the default group, in the order of their ranks, without gradients.

    Every process must call this; they may have unequal numbers of rows. Without a process group the rows are returned as they are.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(count) for count in counts]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(gathered, padded)
    return torch.cat([of_one[:length] for of_one, length in zip(gathered, lengths, strict=True)])
