"""The functions by which networks activate, normalise and drop, and the modes that observe them while a network runs.

A module that does one of these calls the function in its turn, so modules and functions are observed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, get_overridable_functions

ACTIVATIONS: frozenset[Callable[..., Any]] = frozenset({
    F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.hardtanh_,
    F.leaky_relu, F.leaky_relu_, F.prelu, torch.prelu, Tensor.prelu, F.rrelu, F.rrelu_, F.elu, F.elu_, F.selu, F.selu_,
    torch.selu, torch.selu_, F.celu, F.celu_, torch.celu, torch.celu_, F.silu, F.gelu, F.mish, F.hardswish, F.softplus,
    F.threshold, torch.threshold, F.tanh, torch.tanh, Tensor.tanh, Tensor.tanh_,
    F.sigmoid, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, F.hardsigmoid, F.softsign, F.logsigmoid,
})  # fmt: skip
NORMALISATIONS: frozenset[Callable[..., Any]] = frozenset({
    F.batch_norm, torch.batch_norm, F.group_norm, torch.group_norm, F.instance_norm, torch.instance_norm,
})  # fmt: skip
DROPOUTS: frozenset[Callable[..., Any]] = frozenset({
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
})  # fmt: skip


@dataclass(frozen=True)
class Applied:
    """One call of an observed function: its input and output, each with its version then, whose change tells an overwriting.

    Attributes:
        function: what was called.
        given, given_version: the input, before the call.
        returned, returned_version: the output, which is the input itself where the function works in place.
        in_place: whether it was asked to work in place, as a dropout does in training alone.
    """

    function: Callable[..., Any]
    given: Tensor
    given_version: int
    returned: Tensor
    returned_version: int
    in_place: bool


class FunctionLog(TorchFunctionMode):
    """While entered, lists every call of an activation, a normalisation, and a dropout that drops anything."""

    def __init__(self) -> None:
        super().__init__()
        self.activations: list[Applied] = []
        self.normalisations: list[Applied] = []
        self.dropouts: list[Applied] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        calls = self._list_of(func, args, kwargs)
        given = _input(args, kwargs) if calls is not None else None
        if calls is None or given is None or given.is_inference():  # tensors of inference mode have no version
            return func(*args, **kwargs)
        version = given._version
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and not result.is_inference():
            calls.append(Applied(func, given, version, result, result._version, _in_place(func, args, kwargs)))
        return result

    def _list_of(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> list[Applied] | None:
        if func in ACTIVATIONS:
            return self.activations
        if func in NORMALISATIONS:
            return self.normalisations
        drops = func in DROPOUTS and (args[1] if len(args) > 1 else kwargs.get("p", 0.5)) > 0
        return self.dropouts if drops else None


@dataclass(frozen=True)
class Held:
    """What a function was called with.

    Attributes:
        tensor: its input.
        version: that it had then, whose change tells an overwriting; None where it has none.
        values: the input, or a copy of what it was then.
    """

    tensor: Tensor
    version: int | None
    values: Tensor


class FunctionInputs(TorchFunctionMode):
    """While entered, holds what the last activation, and the first of the last dropouts in a row, were called with.

    It can be entered inside of compiled code, where it does not observe every function (`observed_when_compiled`).

    Args:
        copies: whether to hold copies, for inputs that are overwritten later.

    Attributes:
        activated: the input of the last activation; None before there was any.
        dropped: the input of the last dropout, or of the one that it follows at once; None before there was any.
    """

    def __init__(self, copies: bool) -> None:
        super().__init__()
        self._copies = copies
        self.activated: Held | None = None
        self.dropped: Held | None = None
        self._after_dropout: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = _input(args, kwargs) if func in ACTIVATIONS or func in DROPOUTS else None
        if given is None:
            return func(*args, **kwargs)
        held = Held(given, version_of(given), given.clone() if self._copies else given)
        result = func(*args, **kwargs)
        if func in ACTIVATIONS:
            self.activated = held
        else:
            if given is not self._after_dropout:
                self.dropped = held
            self._after_dropout = result
        return result


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was changed in place; None in compiled code and of tensors of inference mode, which do not say it."""
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


def observed_when_compiled(function: Callable[..., Any]) -> bool:
    """Return whether modes see a function inside of compiled code: some of those that work in place, and few others, they do not."""
    return any(function in functions for functions in get_overridable_functions().values())


def _input(args: Sequence[Any], kwargs: Any) -> Tensor | None:
    given = args[0] if args else kwargs.get("input")
    return given if isinstance(given, Tensor) else None


def _in_place(func: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> bool:
    """Return whether a dropout would work in place; activations show that by the version of their input."""
    return func in DROPOUTS and bool(args[3] if len(args) > 3 else kwargs.get("inplace", False))
