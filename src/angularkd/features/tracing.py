"""The one dry forward of a network: everything that later steps need to know of it."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.features.feature_maps import Grid, Item, MapReader, Shapes, Stage, Tap, tensors_in
from angularkd.features.origins import Passages
from angularkd.features.outputs import heads_of
from angularkd.system.modes import undisturbed


@dataclass(frozen=True)
class Head:
    """The layer that turns a model's embedding into its logits.

    Attributes:
        path: of the layer.
        dim: the embedding's width.
        before_dropout: where the embedding is read before the dropout, or several in a row, behind which it enters the layer; None
            where it is the layer's input.
    """

    path: str
    dim: int
    before_dropout: Tap | None = None


@dataclass(frozen=True)
class TracedMap:
    """A module that returned one feature map: as a stage, and the grid of the map that it was called with, if it was."""

    stage: Stage
    input_grid: Grid | None


@dataclass(frozen=True)
class Trace:
    """What is found in one forward of two equal images through a network.

    Attributes:
        maps: every module that returned one feature map, once, in the order in which they finish.
        inputs: the map that a module was called with, of every module that was; of one that runs several times, in its last run.
        head: the last linear layer, or 1x1 convolution, whose output is the model's logits; None where there is none.
        output_shape: of the model's logits (`heads_of`) for two images; None where its output holds none.
        output_kind: the name of the output's type.
        image_size: height and width of the images, in pixels.
        flops: floating point operations of a forward of one image; None where they could not be counted.
    """

    maps: tuple[TracedMap, ...]
    inputs: tuple[Stage, ...]
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
    reader = _reader(record, images.shape)
    logits, _ = heads_of(output)
    return Trace(
        maps=_maps_of(record, reader),
        inputs=_inputs_of(record, reader),
        head=_head_of(record, logits),
        output_shape=tuple(logits.shape) if isinstance(logits, Tensor) else None,
        output_kind=type(output).__name__,
        image_size=(images.shape[2], images.shape[3]),
        flops=flops,
    )


@dataclass
class _Call:
    """One call of a module: the shapes of its tensors, and those themselves that may be maps, with their versions at that time."""

    given: Shapes
    given_maps: list[tuple[Item, Tensor, int]]
    returned: Shapes
    returned_maps: list[tuple[Item, Tensor, int]]


@dataclass
class _Record:
    """What is noted of one forward.

    Attributes:
        calls: of every module below the root by path, in the order in which they finished last.
        layers: of each call of a linear layer or convolution, where its input is read, the input, its version, and the output.
        passages: of the tensors through modules and functions.
    """

    calls: dict[str, list[_Call]] = field(default_factory=dict)
    layers: list[tuple[Tap, Tensor, int, Tensor]] = field(default_factory=list)
    passages: Passages = field(default_factory=Passages)


def _run(model: nn.Module, images: Tensor, context: Any) -> tuple[_Record, Any]:
    record = _Record()
    handles = [
        handle
        for path, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
        for handle in _recorders(record, path, module, len(images))
    ]
    try:
        with context, record.passages.log:
            return record, model(images)
    finally:
        for handle in handles:
            handle.remove()


def _recorders(record: _Record, path: str, module: nn.Module, batch: int) -> tuple[Any, Any]:
    """Hook a module, so that what it is called with and what it returns is noted."""
    started: list[list[tuple[Item, Tensor, int]]] = []
    calls: defaultdict[str, int] = defaultdict(int)

    def before(module: nn.Module, inputs: Any, options: Any) -> None:
        started.append(_possible_maps((inputs, options), batch))
        record.passages.note(path, "input", calls["input"], (inputs, options))
        calls["input"] += 1

    def after(module: nn.Module, inputs: Any, options: Any, output: Any) -> None:
        given, returned = list(tensors_in((inputs, options))), list(tensors_in(output))
        record.passages.note(path, "output", calls["output"], output)
        if isinstance(module, nn.Linear | nn.Conv2d) and given and len(returned) == 1:
            item, tensor = given[0]
            version = 0 if tensor.is_inference() else tensor._version
            tap = Tap(path, "input", item, calls["output"])
            record.layers.append((tap, tensor, version, returned[0][1]))
        calls["output"] += 1
        if not path:
            return
        earlier = record.calls.pop(path, [])  # taken out and put back: the order is that of finishing
        call = _Call(_shapes(given), started.pop(), _shapes(returned), _possible_maps(output, batch))
        record.calls[path] = [*earlier, call]

    return (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    )


def _shapes(tensors: list[tuple[Item, Tensor]]) -> Shapes:
    return [(item, tensor.shape) for item, tensor in tensors]


def _possible_maps(values: Any, batch: int) -> list[tuple[Item, Tensor, int]]:
    """Return the tensors that may be maps with their versions, which tensors of inference mode do not have."""
    return [
        (item, tensor, tensor._version)
        for item, tensor in tensors_in(values)
        if tensor.ndim in (3, 4) and len(tensor) == batch and not tensor.is_inference()
    ]


def _reader(record: _Record, images: torch.Size) -> MapReader:
    shapes = [shape for calls in record.calls.values() for call in calls for _, shape in call.returned]
    return MapReader(images, shapes)


def _maps_of(record: _Record, reader: MapReader) -> tuple[TracedMap, ...]:
    maps = []
    for path, calls in record.calls.items():
        stage = reader.read(path, calls[0].returned)
        if len(calls) == 1 and stage is not None:
            source = reader.read(path, calls[0].given)
            stage = _with_origin(stage, calls[0].returned_maps, record.passages)
            maps.append(TracedMap(stage, source.grid if source is not None else None))
    return tuple(maps)


def _inputs_of(record: _Record, reader: MapReader) -> tuple[Stage, ...]:
    inputs = []
    for path, calls in record.calls.items():
        stage = reader.read(path, calls[-1].given)
        if stage is not None:
            stage = replace(stage, side="input")
            inputs.append(_with_origin(stage, calls[-1].given_maps, record.passages))
    return tuple(inputs)


def _with_origin(stage: Stage, tensors: list[tuple[Item, Tensor, int]], passages: Passages) -> Stage:
    """Add whether a stage's tensor has been changed in place since it passed, and where it is read before its activation."""
    for item, tensor, version in tensors:
        if item == stage.item:
            origin = passages.before_activation((id(tensor), version))
            return replace(stage, overwritten=tensor._version != version, before_activation=origin)
    return stage


def _gives(returned: Tensor, logits: Tensor) -> bool:
    """Return whether a layer's output has the logits' size; of a convolution, whose every channel has it at a 1x1 map, their values too."""
    if returned.shape[:2] != logits.shape or returned.numel() != logits.numel():
        return False
    return returned.ndim == 2 or torch.equal(returned.flatten(1), logits)


def _head_of(record: _Record, logits: Any) -> Head | None:
    if not isinstance(logits, Tensor):
        return None
    found = [layer for layer in reversed(record.layers) if _gives(layer[-1], logits)]
    if not found:
        return None
    # an auxiliary head gives as many numbers, and may come later
    tap, given, version, _ = next((layer for layer in found if layer[-1] is logits), found[0])
    return Head(tap.path, math.prod(given.shape[1:]), record.passages.before_dropout(tap, given, version))
