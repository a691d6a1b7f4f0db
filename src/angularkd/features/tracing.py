"""The one dry forward of a network: everything that later steps need to know of it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.features.feature_maps import Grid, Item, MapReader, Shapes, Stage, tensors_in
from angularkd.system.modes import undisturbed


@dataclass(frozen=True)
class Head:
    """The layer that turns a model's embedding into its logits: its path, and the embedding's width."""

    path: str
    dim: int


@dataclass(frozen=True)
class TracedMap:
    """A module that returned one feature map: as a stage, and the grid of the map that it was called with, if it was."""

    stage: Stage
    input_grid: Grid | None


@dataclass(frozen=True)
class Trace:
    """Everything that one forward of two equal images shows of a network.

    Attributes:
        maps: every module that returned one feature map, once, in the order in which they finish.
        head: the last linear layer, or 1x1 convolution, whose output is the model's logits; None where there is none.
        output_shape: of the model's output for two images; None where that is no tensor.
        output_kind: the name of the output's type.
        image_size: height and width of the images, in pixels.
        flops: floating point operations of a forward of one image; None where they could not be counted.
    """

    maps: tuple[TracedMap, ...]
    head: Head | None
    output_shape: tuple[int, ...] | None
    output_kind: str
    image_size: tuple[int, int]
    flops: int | None


def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run a model once, in evaluation mode, and note what its modules return.

    Two equal images are run, so that a tensor without a row a sample (windows, tables of positions) is known by its first
    size. The model's modes, its statistics and the random state are left as they were. Whatever the model raises is raised.

    Args:
        model: any module from images.
        images: [batch, 3, height, width]; the first is used.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a seventh of a second that losses alone need not wait for

    images = images[:1].repeat(2, 1, 1, 1)
    counter = FlopCounterMode(display=False)
    with undisturbed(model):
        try:
            record, output = _run(model, images, counter)
            flops = counter.get_total_flops() // 2
        except Exception:  # a model may run and yet bear no counting
            record, output = _run(model, images, nullcontext())
            flops = None
    return Trace(
        maps=_maps_of(record, images.shape),
        head=_head_of(record, logits_in(output)),
        output_shape=tuple(output.shape) if isinstance(output, Tensor) else None,
        output_kind=type(output).__name__,
        image_size=(images.shape[2], images.shape[3]),
        flops=flops,
    )


def logits_in(output: Any) -> Any:
    """Return the `logits` of an output that has such (a network with auxiliary heads gives one), else the output itself."""
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


@dataclass
class _Call:
    """One call of a module: the shapes of its tensors, and the returned ones themselves with their versions at that time."""

    given: Shapes
    returned: Shapes
    tensors: list[tuple[Item, Tensor, int]]

    @property
    def overwritten(self) -> set[Item]:
        """Return where the output holds tensors that have been changed in place since."""
        return {item for item, tensor, version in self.tensors if tensor._version != version}


@dataclass
class _Record:
    """The calls of every module below the root by path, in the order in which they finished last; and those of layers.

    layers: path, shape of the input, and shape of the output of each call of a linear layer or convolution.
    """

    calls: dict[str, list[_Call]] = field(default_factory=dict)
    layers: list[tuple[str, torch.Size, torch.Size]] = field(default_factory=list)


def _run(model: nn.Module, images: Tensor, context: Any) -> tuple[_Record, Any]:
    record = _Record()
    handles = [
        module.register_forward_hook(_recorder(record, path, len(images)), with_kwargs=True)
        for path, module in model.named_modules()
    ]
    try:
        with context:
            return record, model(images)
    finally:
        for handle in handles:
            handle.remove()


def _recorder(record: _Record, path: str, batch: int) -> Any:
    def hook(module: nn.Module, inputs: Any, options: Any, output: Any) -> None:
        given = [(item, tensor.shape) for item, tensor in tensors_in((inputs, options))]
        returned = list(tensors_in(output))
        if isinstance(module, nn.Linear | nn.Conv2d) and given and len(returned) == 1:
            record.layers.append((path, given[0][1], returned[0][1].shape))
        if not path:
            return
        before = record.calls.pop(path, [])  # taken out and put back: the order is that of finishing
        for call in before:
            call.tensors.clear()  # a module that runs twice is no stage
        # The outputs of two images are held until the forward ends, as a training step of that batch would hold them:
        # a version can only be read from a living tensor.
        held = [] if before else [(item, t, t._version) for item, t in returned if _may_be_map(t, batch)]
        shapes = [(item, tensor.shape) for item, tensor in returned]
        record.calls[path] = [*before, _Call(given, shapes, held)]

    return hook


def _may_be_map(tensor: Tensor, batch: int) -> bool:
    return tensor.ndim in (3, 4) and len(tensor) == batch and not tensor.is_inference()  # those have no version


def _maps_of(record: _Record, images: torch.Size) -> tuple[TracedMap, ...]:
    shapes = [shape for calls in record.calls.values() for call in calls for _, shape in call.returned]
    reader = MapReader(images, shapes)
    maps = []
    for path, calls in record.calls.items():
        stage = reader.read(path, calls[0].returned)
        if len(calls) == 1 and stage is not None:
            source = reader.read(path, calls[0].given)
            stage = replace(stage, overwritten=stage.item in calls[0].overwritten)
            maps.append(TracedMap(stage, source.grid if source is not None else None))
    return tuple(maps)


def _head_of(record: _Record, logits: Any) -> Head | None:
    if not isinstance(logits, Tensor):
        return None
    for path, given, returned in reversed(record.layers):
        if returned[:2] == logits.shape and returned.numel() == logits.numel():
            return Head(path, math.prod(given[1:]))
    return None
