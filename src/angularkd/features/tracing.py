"""What every module of a model gives in one dry forward, read as feature maps by shape alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from angularkd.system.modes import mode

Layout = Literal["channels_first", "channels_last", "tokens"]
Grid = tuple[int, int]
Item = tuple[Any, ...]

MAX_PREFIX = 8
"""Class, distillation and register tokens that may stand before the patches."""


@dataclass(frozen=True)
class Stage:
    """A module whose output is a stage of the network.

    path:   the module's path, as in `model.get_submodule(path)`.
    channels, height, width: of its features.
    stride: image height over feature height.
    layout: how the module lays its output out: [B, C, H, W], [B, H, W, C], or tokens [B, N, C] of which the last
            height * width are the patches, row by row.
    item:   where the features are in a module's output that is a tuple, list or dictionary: its keys, outermost first.
    overwritten: whether the model changes the output in place after the module has given it (a ReLU(inplace=True), say).
    """

    path: str
    channels: int
    height: int
    width: int
    stride: float
    layout: Layout = "channels_first"
    item: Item = ()
    overwritten: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    def tensor(self, output: Any) -> Tensor:
        """The features in the module's output, in the module's own layout."""
        for key in self.item:
            output = output[key]
        return output

    def as_map(self, output: Tensor) -> Tensor:
        """The features as [batch, channel, height, width]; a copy of them where the model overwrites them later."""
        if self.overwritten:
            output = output.clone()
        if self.layout == "channels_first":
            return output
        if self.layout == "tokens":
            output = output[:, -self.height * self.width :].reshape(len(output), self.height, self.width, -1)
        return output.permute(0, 3, 1, 2)

    def __str__(self) -> str:
        return f"{self.path} [{self.channels}, {self.height}, {self.width}]"


@dataclass(frozen=True)
class Trace:
    """A module that gave one feature map: as a stage, and the grid of the map that it took, where it took one."""

    stage: Stage
    taken: Grid | None


def trace(model: nn.Module, images: Tensor) -> list[Trace]:
    """Every module that gives a feature map, once, in one forward, in the order in which they finish.

    Two equal images are run, so that what is no row a sample (windows, tables of positions) shows by its first size.
    A token count is read as a grid that some map of the same forward has, after up to MAX_PREFIX other tokens; failing
    that, as a grid of the image's aspect ratio.

    Args:
        images: [batch, 3, height, width]; the first is used.
    """
    images = images[:1].repeat(2, 1, 1, 1)
    runs: dict[str, list[tuple[Shapes, Shapes]]] = {}

    def record(path: str) -> Any:
        def hook(_module: nn.Module, inputs: Any, options: Any, output: Any) -> None:
            given = runs.pop(path, [])  # taken out and put back: the order is that of finishing
            runs[path] = [*given, (list(_shapes((inputs, options))), list(_shapes(output)))]

        return hook

    handles = [
        module.register_forward_hook(record(path), with_kwargs=True) for path, module in model.named_modules() if path
    ]
    try:
        with undisturbed(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    reader = _Reader(images.shape, [shape for calls in runs.values() for _, given in calls for _, shape in given])
    traces = []
    for path, calls in runs.items():
        taken, given = calls[0]
        stage = reader.read(path, given)
        if len(calls) == 1 and stage is not None:
            source = reader.read(path, taken)
            traces.append(Trace(stage, (source.height, source.width) if source is not None else None))
    return traces


def with_overwriting(model: nn.Module, stages: Sequence[Stage], images: Tensor) -> list[Stage]:
    """The stages, with `overwritten` as one more forward shows it: by the versions of the tensors before and after."""
    kept: dict[str, tuple[Tensor, int]] = {}

    def keep(stage: Stage) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = stage.tensor(output)
            kept[stage.path] = tensor, tensor._version

        return hook

    handles = [model.get_submodule(stage.path).register_forward_hook(keep(stage)) for stage in stages]
    try:
        with undisturbed(model):
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    changed = {path for path, (tensor, version) in kept.items() if tensor._version != version}
    return [replace(stage, overwritten=stage.path in changed) for stage in stages]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and the random state are put back afterwards."""
    with mode(model, training=False), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield


Shapes = list[tuple[Item, torch.Size]]


def _shapes(output: Any, item: Item = ()) -> Iterator[tuple[Item, torch.Size]]:
    """The shape of every tensor in a nested output, and where it is."""
    if isinstance(output, Tensor):
        yield item, output.shape
    elif isinstance(output, tuple | list | dict):
        for key, value in output.items() if isinstance(output, dict) else enumerate(output):
            yield from _shapes(value, (*item, key))


class _Reader:
    """Reads shapes as feature maps of images of this shape, given all shapes that were seen."""

    def __init__(self, images: torch.Size, seen: Sequence[torch.Size]) -> None:
        self._batch, self._colours, self._height, self._width = images
        self._layout: Layout = "channels_first"
        self._grids: dict[int, Grid] = {}
        for shape in seen:
            if len(shape) == 4 and (stage := self._read_map("", shape)):
                self._grids[stage.height * stage.width] = stage.height, stage.width

    def read(self, path: str, shapes: Shapes) -> Stage | None:
        """The first of several tensors that is a feature map."""
        for item, shape in shapes:
            if len(shape) in (3, 4) and shape[0] == self._batch:
                stage = self._read_map(path, shape) if len(shape) == 4 else self._read_tokens(path, shape)
                if stage is not None:
                    return replace(stage, item=item)
        return None

    def _read_map(self, path: str, shape: torch.Size) -> Stage | None:
        """In the layout whose grid is nearest to the image's aspect ratio; of two equally near, the last one seen."""
        _, a, b, c = shape
        first, last = self._misfit(b, c), self._misfit(a, b)
        if min(first, last) > 1:
            return None
        if first != last:
            self._layout = "channels_first" if first < last else "channels_last"
        channels, height, width = (a, b, c) if self._layout == "channels_first" else (c, a, b)
        if (channels, height, width) == (self._colours, self._height, self._width):
            return None  # the image itself
        return Stage(path, channels, height, width, self._height / height, self._layout)

    def _read_tokens(self, path: str, shape: torch.Size) -> Stage | None:
        _, tokens, channels = shape
        prefixes = range(min(MAX_PREFIX + 1, tokens))
        known = (self._grids[tokens - prefix] for prefix in prefixes if tokens - prefix in self._grids)
        alike = (grid for prefix in prefixes if (grid := self._grid_of(tokens - prefix)))
        height, width = next(known, None) or next(alike, (0, 0))
        return Stage(path, channels, height, width, self._height / height, "tokens") if height else None

    def _grid_of(self, patches: int) -> Grid | None:
        """The grid of that many patches with the image's aspect ratio, up to rounding."""
        height = round((patches * self._height / self._width) ** 0.5)
        width = round(height * self._width / self._height)
        return (height, width) if height and height * width == patches else None

    def _misfit(self, rows: int, columns: int) -> float:
        """How many columns a grid is away from the image's aspect ratio; infinite where it is larger than the image."""
        if rows > self._height or columns > self._width:
            return float("inf")
        return abs(rows * self._width / self._height - columns)
