"""Hooks that read tensors on their way through a model, and are on it for the time of a forward alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from angularkd.errors import InputError
from angularkd.features.checkpoints import saved_as_they_are
from angularkd.features.feature_maps import Tap
from angularkd.features.functions import FunctionInputs, Held, version_of


class TapHooks:
    """Hooks on a model's modules. Between `start` and `stop`, for one forward, each hands over the tensor that it reads.

    They are put on for each forward, so that the model is saved, copied and averaged as it was. Compiled code that the caller
    enters holds hooks which were there when it was made: those stay the same objects, and `attached` puts them on around it.

    A model in training may overwrite what it does not overwrite in evaluation, where it was traced (by a dropout in place, say):
    `overwritten` finds that out behind its first forward in training, which then has to be repeated.

    Args:
        model: whose modules the taps name.
        taps: where to read.
        receive: is given the tap's number, the tensor itself, and the tensor to take values from, which is a copy where the model
            overwrites it later.

    Attributes:
        attached: whether the hooks are on the model; where there are none, they always are.
        closed: whether they are never put on again.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], receive: Callable[[int, Tensor, Tensor], None]) -> None:
        self.model = model
        self.taps = tuple(taps)
        self.attached = not self.taps
        self.closed = False
        self._receive = receive
        self._hooks = [
            partial(self._given if tap.side == "input" else self._returned, index) for index, tap in enumerate(taps)
        ]
        self._handles: list[RemovableHandle] = []
        self._active, self._in_training, self._recorded = False, False, False
        self._functions: FunctionInputs | None = None
        self._calls = [0] * len(self.taps)
        self._read: list[tuple[int, Tensor, int]] = []
        self._copied = {index for index, tap in enumerate(taps) if tap.overwritten}
        self._settled = False

    def attach(self) -> None:
        """Put the hooks on the model."""
        for tap, hook in zip(self.taps, self._hooks, strict=True):
            module = self.model.get_submodule(tap.path)
            if tap.side == "input":
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(module.register_forward_hook(hook))
        self.attached = True

    def detach(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.attached = not self.taps

    @contextmanager
    def on_the_model(self) -> Iterator[None]:
        """Have the hooks on the model inside; nothing happens where they are there."""
        if self.attached:
            yield
            return
        self.attach()
        try:
            yield
        finally:
            self.detach()

    def start(self, matters: bool) -> FunctionInputs | None:
        """Read from now on. Return the mode that the forward must then run in; None where it needs none.

        Args:
            matters: whether it matters if a tensor is overwritten after it was read, which it does not where nothing of it but
                maps made at once is used, and no gradient.
        """
        self._active = True
        self._in_training = matters and self.model.training
        self._recorded = torch.is_grad_enabled()
        self._calls = [0] * len(self.taps)
        self._read = []
        behind = [index for index, tap in enumerate(self.taps) if tap.behind is not None]
        self._functions = FunctionInputs(any(self._copies(index) for index in behind)) if behind else None
        return self._functions

    def stop(self) -> None:
        """Read no more."""
        self._active, self._functions, self._read = False, None, []

    @property
    def settled(self) -> bool:
        """Return whether it is known what the forward that has been started overwrites."""
        return torch.compiler.is_compiling() or self._settled or not self._in_training or len(self.taps) == 0

    def overwritten(self) -> bool:
        """Return whether the forward in training that has just ended must be repeated: what it overwrites is copied from now on.

        Raises:
            InputError: where it has overwritten what it did not overwrite in its first such forward.
        """
        if torch.compiler.is_compiling():  # which copies whatever is read in training
            return False
        found = {index for index, tensor, version in self._read if tensor._version != version}
        if found and self._settled:
            raise InputError(
                f"what is read at module '{self.taps[min(found)].path}' was changed in place in this forward, unlike in the first one: "
                "leave out `inplace=True`, or use a network whose forward does not change"
            )
        self._settled = self._settled or self._in_training
        self._copied |= found
        return bool(found)

    def close(self) -> None:
        """Remove every hook, for good, which leaves the model as it was."""
        self.detach()
        self.closed = True

    def _copies(self, index: int) -> bool:
        """Return whether a tensor is copied as it is read. Code that is compiled for training leaves out copies that nothing needs."""
        return index in self._copied or (self._in_training and torch.compiler.is_compiling())

    def _given(self, index: int, _: nn.Module, inputs: Any, options: Any) -> None:
        self._take(index, (inputs, options))

    def _returned(self, index: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._take(index, output)

    def _take(self, index: int, values: Any) -> None:
        tap = self.taps[index]
        if not self._active:
            return
        if tap.call is not None:
            self._calls[index] += 1
            if self._calls[index] != tap.call + 1:
                return
        if self._recorded and not torch.is_grad_enabled():
            self._check_frozen(tap)
        with saved_as_they_are():
            if tap.behind is not None:
                held = self._input_of_function(tap)
                tensor, version, values = held.tensor, held.version, held.values
            else:
                tensor = tap.find(values)
                version = version_of(tensor)
                values = tensor.clone() if self._copies(index) else tensor
            if self._in_training and version is not None and values is tensor:
                self._read.append((index, tensor, version))
            self._receive(index, tensor, values)

    def _input_of_function(self, tap: Tap) -> Held:
        found = None
        if self._functions is not None:
            found = self._functions.activated if tap.behind == "activation" else self._functions.dropped
        if found is None:
            raise InputError(
                f"no {tap.behind} function was called before module '{tap.path}' of this forward, unlike in the first one: "
                "use a network whose forward does not change"
            )
        return found

    def _check_frozen(self, tap: Tap) -> None:
        """Raise InputError where a module that is to be trained runs without gradients, so that no loss on it would reach it."""
        own = list(self.model.get_submodule(tap.path).parameters())
        if any(parameter.requires_grad for parameter in own or self.model.parameters()):
            raise InputError(
                f"module '{tap.path}' runs without gradients in this forward, so that no loss on what it gives can reach its weights: "
                "checkpoint its gradients with use_reentrant=False, or leave out torch.no_grad"
            )
