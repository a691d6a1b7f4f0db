"""Functions compiled by `torch.compile` for one shape of their images, and constants that compiled code may ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

INDUCTOR_OPTIONS: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
"""Of the inductor backend: on processors multiply and add in one instruction, which rounds once instead of twice."""
LOOP_OPTIONS: dict[str, dict[str, Any]] = {"cuda": {"triton.cudagraphs": True}, "cpu": {"cpp_wrapper": True}}
"""By the type of the device: CUDA graphs, and a step's kernels called from C++ instead of Python. Both take the host's time out
of small networks' steps; the latter makes compilation a tenth to a quarter longer."""


def made_once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return the function with a memory of its results by its (hashable) arguments: tensors on the device that no step copies there.

    Compiled code, which holds such constants itself and cannot read a cache, calls the function while it is traced. What is first
    made in inference mode is not of that mode, for a step that takes gradients may ask for it next.
    """

    @lru_cache(maxsize=64)
    def remembered(*arguments: Any) -> Result:
        with torch.inference_mode(False), torch.no_grad():
            return function(*arguments)

    @wraps(function)
    def made(*arguments: Any) -> Result:
        return function(*arguments) if torch.compiler.is_compiling() else remembered(*arguments)

    return made


def begin_step(device: torch.device) -> None:
    """Tell CUDA graphs that the outputs of the step before may be overwritten; elsewhere nothing happens."""
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _inductor_options() -> dict[str, Any]:
    """Return INDUCTOR_OPTIONS, and how many threads the code is for.

    The compiler takes that number from PyTorch, but does not tell its cache on the disk: it would answer with code that another process
    had compiled for another number, whose sums round otherwise, so that equal runs ended with unequal weights.
    """
    return {**INDUCTOR_OPTIONS, "cpp.threads": torch.get_num_threads()}


def options_for(device: torch.device) -> dict[str, Any]:
    """Return the compiler's options for a loop of many steps on a device, each of which drops its results before the next."""
    return LOOP_OPTIONS.get(device.type, {})


class CompiledForOneShape(Generic[Result]):
    """A function of images that is compiled for the shape of images that it first gets, and runs as written for others.

    Otherwise the last and smaller batch of an epoch would be compiled for too, which costs more than it ever saves.

    Args:
        function: the function; images are its first argument.
        frozen: whether the parameters of what it runs become constants of its code, which folds batch normalisation into
            convolutions and lays weights out beforehand; it must then be called without gradients.
        options: options of the inductor backend, beside INDUCTOR_OPTIONS, or those of `torch.compile` itself where `backend` is among them.
    """

    def __init__(self, function: Callable[..., Result], *, frozen: bool = False, **options: Any) -> None:
        self.function = function
        self.frozen = frozen
        given = options if "backend" in options else {"options": {**_inductor_options(), **options}}
        self._compiled: Callable[..., Result] = torch.compile(function, dynamic=False, **given)
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor, *more: Any) -> Result:
        """Return what the function returns: from compiled code for the first shape, as it is written for others."""
        if self._shape is None:
            import torch._inductor.config

            self._shape = images.shape
            with torch._inductor.config.patch(freezing=self.frozen):
                try:
                    return self._compiled(images, *more)
                except Exception:
                    self.function(images, *more)  # where it fails as it is written, its own words are the clearer ones
                    raise
        return (self._compiled if images.shape == self._shape else self.function)(images, *more)
