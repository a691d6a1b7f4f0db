"""Hooks that read tensors on their way through a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features.feature_maps import Tap
from angularkd.features.functions import FunctionInputs


class TapHooks:
    """Hooks on a model's modules. Between `start` and `stop`, for one forward, each hands over the tensor that it reads.

    Args:
        model: whose modules the taps name.
        readers: where to read, and who gets the tensor itself, not yet copied (`Tap.copied`).
    """

    def __init__(self, model: nn.Module, readers: Sequence[tuple[Tap, Callable[[Tensor], None]]]) -> None:
        behind = [tap for tap, _ in readers if tap.behind is not None]
        self._watches, self._copies = bool(behind), any(tap.overwritten for tap in behind)
        self._active = False
        self._functions: FunctionInputs | None = None
        self._calls = [0] * len(readers)
        self._handles = [self._hook(model, i, tap, receive) for i, (tap, receive) in enumerate(readers)]

    def start(self) -> FunctionInputs | None:
        """Read from now on. Return the mode that the forward must then run in; None where it needs none."""
        self._active = True
        self._calls = [0] * len(self._handles)
        self._functions = FunctionInputs(self._copies) if self._watches else None
        return self._functions

    def stop(self) -> None:
        """Read no more."""
        self._active, self._functions = False, None

    def close(self) -> None:
        """Remove every hook, which leaves the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, model: nn.Module, index: int, tap: Tap, receive: Callable[[Tensor], None]) -> Any:
        def read(values: Any) -> None:
            if not self._active:
                return
            if tap.call is not None:
                self._calls[index] += 1
                if self._calls[index] != tap.call + 1:
                    return
            receive(tap.find(values) if tap.behind is None else self._input_of_function(tap))

        module = model.get_submodule(tap.path)
        if tap.side == "input":
            return module.register_forward_pre_hook(
                lambda _, inputs, options: read((inputs, options)), with_kwargs=True
            )
        return module.register_forward_hook(lambda _module, _inputs, output: read(output))

    def _input_of_function(self, tap: Tap) -> Tensor:
        found = None
        if self._functions is not None:
            found = self._functions.activated if tap.behind == "activation" else self._functions.dropped
        if found is None:
            raise InputError(
                f"no {tap.behind} function was called before module '{tap.path}' of this forward, unlike in the first one: "
                "use a network whose forward does not change"
            )
        return found
