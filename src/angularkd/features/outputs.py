"""Logits inside of what a network gives: a tensor, an object that has `logits`, or those of several heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def heads_of(output: Any) -> tuple[Any, Tensor | None]:
    """Return the logits of an output, and those of a second head where it has such.

    Logits are a tensor; the `logits` of an object or mapping; of several tensors the only matrix; or the first of equally large
    matrices, which are those of auxiliary heads. Of a pair of such the second is returned too, for it may be a distillation head's.

    Returns:
        The logits [batch, classes] and None, or the second head's; the output itself and None where it holds no logits, or it cannot
        be said which of its tensors they are.
    """
    if isinstance(output, Tensor):
        return output, None
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if named is not None:
        found, second = heads_of(named)
        return (found, second) if isinstance(found, Tensor) else (output, None)
    values = _values(output)
    matrices = [value for value in values if isinstance(value, Tensor) and value.ndim == 2]
    if len(matrices) == 1:
        return matrices[0], None
    alike = len({matrix.shape for matrix in matrices}) == 1
    if alike and isinstance(output, tuple | list) and values[0] is matrices[0]:
        return matrices[0], matrices[1] if len(values) == 2 else None
    return output, None


def _values(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else []
