"""Feature maps of any model: what a module's output is as a map, read from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from angularkd.errors import InputError

Layout = Literal["channels_first", "channels_last", "tokens"]
Grid = tuple[int, int]
"""Height and width of a map, in positions."""
Item = tuple[Any, ...]
"""The keys that lead to a tensor inside of a nested output, outermost first."""
Shapes = list[tuple[Item, torch.Size]]

Side = Literal["input", "output"]
"""Of a module: what it is called with, or what it returns."""
INPUT = ".input"
"""What stands behind a module's path in `pairs` where its input is meant."""

MAX_PREFIX = 8
"""Class, distillation and register tokens that may stand before the patches."""


@dataclass(frozen=True)
class Tap:
    """Where a tensor is read while a network runs.

    Attributes:
        path: of a module, as in `model.get_submodule(path)`.
        side: whether it is read from what the module is called with, or from what it returns.
        item: the keys that lead to it in the returned output, or in the pair of arguments and keyword arguments.
        call: which of the module's runs in a forward; None for the last.
        overwritten: whether the model changes the tensor in place later (by a ReLU(inplace=True), say), so that it is copied.
        behind: where no module has it: the kind of function whose input it is, of the last such call before that point.
        compiles: whether it can be read in compiled code.
    """

    path: str
    side: Side = "output"
    item: Item = ()
    call: int | None = None
    overwritten: bool = False
    behind: Literal["activation", "dropout"] | None = None
    compiles: bool = True

    def find(self, values: Any) -> Tensor:
        """Return the tensor inside of what the module is called with or returns."""
        for key in self.item:
            values = values[key]
        found: Tensor = values
        return found


@dataclass(frozen=True)
class Stage:
    """A module whose output, or input, is a stage of the network.

    Attributes:
        path: the module's path, as in `model.get_submodule(path)`.
        channels: of its features.
        height: of its features, in positions.
        width: of its features, in positions.
        stride: image height over feature height.
        layout: how the module lays its output out: [B, C, H, W], [B, H, W, C], or tokens [B, N, C] of which the last
            height * width are the patches, row by row.
        item: where the features are in an output that is a tuple, list or dictionary; of an input, in the pair of its arguments
            and keyword arguments.
        overwritten: whether the model changes the features in place after that (by a ReLU(inplace=True), say).
        side: whether the features are the module's output or its input.
        before_activation: where the features before the stage's last activation are read, which have its shape and layout: what
            that activation is called with; where the next batch norm takes the features and an activation follows it, that
            norm's output. None where the features themselves are before an activation, or none is known.
        tokens: how many there are of the layout "tokens", patches and others; 0 where that is not known.
    """

    path: str
    channels: int
    height: int
    width: int
    stride: float
    layout: Layout = "channels_first"
    item: Item = ()
    overwritten: bool = False
    side: Side = "output"
    before_activation: Tap | None = None
    tokens: int = 0

    @property
    def name(self) -> str:
        """Return how `pairs` name it: the module's path, with `.input` behind it where it is the module's input."""
        return self.path if self.side == "output" else self.path + INPUT

    @property
    def tap(self) -> Tap:
        """Return where its features are read."""
        return Tap(self.path, self.side, self.item, overwritten=self.overwritten)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def grid(self) -> Grid:
        """Return (height, width)."""
        return self.height, self.width

    @property
    def positions(self) -> int:
        """Return height * width."""
        return self.height * self.width

    def as_map(self, features: Tensor) -> Tensor:
        """Return features in the module's layout as [batch, channel, height, width].

        Raises:
            InputError: for another number of tokens than there were when the stage was found, of which nobody knows the grid.
        """
        if self.layout == "channels_first":
            return features
        if self.layout == "tokens":
            if self.tokens and features.shape[1] != self.tokens:
                raise InputError(
                    f"stage {self} gives {features.shape[1]} tokens, and gave {self.tokens} when it was paired, by images of one size and "
                    "in evaluation: call with images of that size, pair anew for another, and leave out dropping of patches"
                )
            features = features[:, -self.positions :].reshape(len(features), self.height, self.width, -1)
        return features.permute(0, 3, 1, 2)

    def __str__(self) -> str:
        return f"{self.name} [{self.channels}, {self.height}, {self.width}]"


def tensors_in(output: Any, item: Item = ()) -> Iterator[tuple[Item, Tensor]]:
    """Yield every tensor of a nested output with the keys that lead to it."""
    if isinstance(output, Tensor):
        yield item, output
    elif isinstance(output, tuple | list | dict):
        for key, value in output.items() if isinstance(output, dict) else enumerate(output):
            yield from tensors_in(value, (*item, key))


class MapReader:
    """Reads shapes as feature maps of images.

    A count of tokens is read as a grid that some map of the same forward has, after up to MAX_PREFIX other tokens; failing
    that, as a grid of the image's aspect ratio.

    Args:
        images: the shape of the images, [batch, colours, height, width].
        shapes: of all the tensors that the modules returned, in order.
    """

    def __init__(self, images: torch.Size, shapes: Sequence[torch.Size]) -> None:
        self._batch, self._colours, self._height, self._width = images
        self._layout: Layout = "channels_first"
        self._grids: dict[int, Grid] = {}
        for shape in shapes:
            if len(shape) == 4 and shape.numel() and (stage := self._read_map("", shape)):
                self._grids[stage.positions] = stage.grid

    def read(self, path: str, shapes: Shapes) -> Stage | None:
        """Return the first of several tensors that is a feature map, as a stage of this path; None where none is."""
        for item, shape in shapes:
            if len(shape) in (3, 4) and shape[0] == self._batch and shape.numel():
                stage = self._read_map(path, shape) if len(shape) == 4 else self._read_tokens(path, shape)
                if stage is not None:
                    return replace(stage, item=item)
        return None

    def _read_map(self, path: str, shape: torch.Size) -> Stage | None:
        """Take the layout whose grid is nearer to the image's aspect ratio; of two equally near, the one that was read last."""
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
        stride = self._height / height if height else 0.0
        return Stage(path, channels, height, width, stride, "tokens", tokens=tokens) if height else None

    def _grid_of(self, patches: int) -> Grid | None:
        """Return the grid of that many patches with the image's aspect ratio, up to rounding."""
        height = round((patches * self._height / self._width) ** 0.5)
        width = round(height * self._width / self._height)
        return (height, width) if height and height * width == patches else None

    def _misfit(self, rows: int, columns: int) -> float:
        """Return by how many columns a grid misses the image's aspect ratio; infinity where it is larger than the image."""
        if rows > self._height or columns > self._width:
            return float("inf")
        return abs(rows * self._width / self._height - columns)
