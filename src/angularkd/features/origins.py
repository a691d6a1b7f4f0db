"""Where tensors of the dry forward come from: what a stage's last activation was called with, and an embedding before its dropout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from angularkd.features.feature_maps import Side, Tap, tensors_in
from angularkd.features.functions import Applied, FunctionLog, observed_when_compiled

Moment = tuple[int, int]
"""A tensor, by its id, at one version: its values between two changes in place."""


@dataclass(frozen=True)
class _Passage:
    """The first time that a tensor, at one version, went into a module or came out of one, and how many functions had been called."""

    tap: Tap
    activations: int
    dropouts: int


@dataclass
class Passages:
    """Which modules the tensors of one forward went into and came out of, beside the functions that were called.

    It holds every tensor until it is dropped itself, so that ids and addresses stay unequal.

    Args:
        log: of the functions; it is entered while the forward runs.
    """

    log: FunctionLog = field(default_factory=FunctionLog)
    _held: list[Tensor] = field(default_factory=list)
    _of_tensors: dict[Moment, _Passage] = field(default_factory=dict)
    _of_memory: dict[tuple[int, int, int], _Passage] = field(default_factory=dict)

    def note(self, path: str, side: Side, call: int, values: Any) -> None:
        """Note the tensors that a module is called with, as a pair of arguments and keyword arguments, or that it returns."""
        for item, tensor in tensors_in(values):
            if tensor.is_inference():  # those have no version
                continue
            passage = _Passage(Tap(path, side, item, call), len(self.log.activations), len(self.log.dropouts))
            self._held.append(tensor)
            self._of_tensors.setdefault(_moment(tensor), passage)
            if (memory := _memory(tensor, tensor._version)) is not None:
                self._of_memory.setdefault(memory, passage)

    def before_activation(self, moment: Moment) -> Tap | None:
        """Return where the input of the activation that a tensor comes from is read.

        Where it comes from none, but is normalised by itself and then activated, as in a pre-activation network, return where its
        normalised form is read; None where there is no such thing either, and where no module and no function shows it.
        """
        activation = _last(call for call in self.log.activations if _after(call) == moment)
        if activation is not None:
            tap = self._tap_of(activation) or self._behind_activation(moment, activation)
        else:
            norm = next((call for call in self.log.normalisations if _before(call) == moment), None)
            following = (call for call in self.log.activations if norm is not None and _before(call) == _after(norm))
            activation = next(following, None)
            tap = self._tap_of(activation) if activation is not None else None
        if tap is None or activation is None:
            return None
        return replace(tap, overwritten=activation.given._version != activation.given_version)

    def before_dropout(self, head: Tap, embedding: Tensor, version: int) -> Tap | None:
        """Return where a head's input is read before the dropouts that it has passed, which do nothing in evaluation; None without any.

        Args:
            head: where the head's input is read itself.
            embedding: that input.
            version: its version then.
        """
        memory = _memory(embedding, version)
        calls = [(i, c) for i, c in enumerate(self.log.dropouts) if _memory(c.given, c.given_version) == memory]
        if memory is None or not calls:
            return None
        passage = self._of_memory[memory]
        overwritten = any(call.in_place for _, call in calls)
        if passage.dropouts <= calls[0][0]:
            return replace(passage.tap, overwritten=overwritten)
        return replace(head, overwritten=overwritten, behind="dropout")

    def _tap_of(self, activation: Applied) -> Tap | None:
        passage = self._of_tensors.get(_before(activation))
        return passage.tap if passage is not None else None

    def _behind_activation(self, moment: Moment, activation: Applied) -> Tap | None:
        """Return where the output of an activation first passes, if that is before any other activation."""
        passage = self._of_tensors.get(moment)
        if passage is None or self.log.activations[passage.activations - 1] is not activation:
            return None
        return replace(passage.tap, behind="activation", compiles=observed_when_compiled(activation.function))


def _moment(tensor: Tensor) -> Moment:
    return id(tensor), tensor._version


def _before(call: Applied) -> Moment:
    return id(call.given), call.given_version


def _after(call: Applied) -> Moment:
    return id(call.returned), call.returned_version


def _memory(tensor: Tensor, version: int) -> tuple[int, int, int] | None:
    """Return what a tensor shares with its views of all of its values in their order; None where it has no such views."""
    if tensor.layout is not torch.strided or not tensor.is_contiguous():
        return None
    return tensor.data_ptr(), tensor.numel(), version


def _last(calls: Iterable[Applied]) -> Applied | None:
    return next(iter(list(calls)[::-1]), None)
