"""The stages of any model, found by one dry forward: which modules give feature maps, and how these are laid out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from angularkd.errors import InputError, nearest
from angularkd.modes import mode

Layout = Literal["channels_first", "channels_last", "tokens"]


@dataclass(frozen=True)
class Stage:
    """A module whose output is a stage of the network.

    path:   the module's path, as in `model.get_submodule(path)`.
    channels, height, width: of its features.
    stride: image height over feature height.
    layout: how the module lays its output out: [B, C, H, W], [B, H, W, C], or tokens [B, N, C] of which the last
            height * width are the patches, row by row.
    """

    path: str
    channels: int
    height: int
    width: int
    stride: float
    layout: Layout = "channels_first"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    def as_map(self, output: Tensor) -> Tensor:
        """The module's output as [batch, channel, height, width]."""
        if self.layout == "channels_first":
            return output
        if self.layout == "tokens":
            output = output[:, -self.height * self.width :].reshape(len(output), self.height, self.width, -1)
        return output.permute(0, 3, 1, 2)

    def __str__(self) -> str:
        return f"{self.path} [{self.channels}, {self.height}, {self.width}]"


@dataclass(frozen=True)
class Head:
    """The layer that turns a model's embedding into its logits: its path, and the embedding's width."""

    path: str
    dim: int


def find_stages(model: nn.Module, images: Tensor, blocks: int = 4) -> list[Stage]:
    """The stages of a model, shallow to deep, found by one dry forward.

    A stage is the last of the shallowest modules in the hierarchy whose outputs share a resolution; modules made of
    others go before single layers (the last block, not the normalisation behind it). A model of constant resolution (a
    vision transformer, say) is sampled at `blocks` evenly spaced blocks instead. Maps of a single position are left
    out: they carry no attention. The model's modes, its statistics and the random state are left as they were.

    Args:
        images: [batch, 3, height, width]; only the shape matters.
    """
    records = [stage for stage in dry_run(model, images) if stage.height * stage.width > 1]
    grids = list(dict.fromkeys((stage.height, stage.width) for stage in records))
    if len(grids) == 1:
        return _evenly_spaced(records, blocks)
    blocks_of_modules = {path for path, module in model.named_modules() if any(True for _ in module.children())}
    stages = [
        _last_of_shallowest([stage for stage in records if (stage.height, stage.width) == grid], blocks_of_modules)
        for grid in grids
    ]
    order = {stage.path: position for position, stage in enumerate(records)}
    return sorted(stages, key=lambda stage: (-stage.height * stage.width, order[stage.path]))


def stages_at(model: nn.Module, paths: Sequence[str], images: Tensor, role: str = "model") -> list[Stage]:
    """The stages at given module paths. Raises InputError for a path that does not exist or gives no feature map.

    role: what errors call the model.
    """
    known = dict(model.named_modules())
    for path in paths:
        if path not in known or not path:
            raise InputError(
                f"the {role}, a {type(model).__name__}, has no module '{path}'.{nearest(path, known)} "
                f"At its top are: {', '.join(name for name, _ in model.named_children())}"
            )
    found = {stage.path: stage for stage in dry_run(model, images)}
    for path in paths:
        if path not in found:
            raise InputError(
                f"module '{path}' of the {role} gives no single feature map: name a module that outputs [B, C, H, W] once a forward"
            )
        if found[path].height * found[path].width < 2:
            raise InputError(
                f"module '{path}' of the {role} gives a 1x1 map, which carries no attention: name a shallower module, or use larger images"
            )
    return [found[path] for path in paths]


def dry_run(model: nn.Module, images: Tensor) -> list[Stage]:
    """Every module that outputs one feature map in a forward, in the order in which they finish."""
    outputs: dict[str, Tensor | None] = {}

    def record(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[path] = None if path in outputs else _shape_only(output)

        return hook

    handles = [module.register_forward_hook(record(path)) for path, module in model.named_modules() if path]
    try:
        with undisturbed(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    height, width = images.shape[-2:]
    stages = (_interpret(path, output.shape, height, width) for path, output in outputs.items() if output is not None)
    return [stage for stage in stages if stage is not None]


def find_head(model: nn.Module, images: Tensor) -> Head:
    """The classification layer: the last linear layer, or 1x1 convolution, whose output is the model's.

    Raises InputError when there is none, so that there is no embedding to speak of.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []

    def record(path: str) -> Any:
        return lambda _module, inputs, output: seen.append((path, inputs[0], output))

    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [module.register_forward_hook(record(path)) for path, module in layers]
    try:
        with undisturbed(model):
            logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    for path, given, output in reversed(seen):
        if output.shape[:2] == logits.shape and output.numel() == logits.numel():
            return Head(path, given.flatten(1).shape[1])
    raise InputError(
        f"the {type(model).__name__} has no layer whose output is its logits, hence no embedding: "
        "leave out the losses on embeddings"
    )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and the random state are put back afterwards."""
    with mode(model, training=False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield


def _shape_only(output: Any) -> Tensor | None:
    tensor = first_tensor(output)
    return torch.empty(tensor.shape, device="meta") if isinstance(tensor, Tensor) else None


def first_tensor(output: Any) -> Any:
    """A module's output, or the first of several."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _interpret(path: str, shape: torch.Size, height: int, width: int) -> Stage | None:
    """What an output of this shape is, given the size of the image: a map in one of the layouts, or none."""
    if len(shape) == 4:
        _, a, b, c = shape
        if _fits(b, c, height, width) and not (_fits(a, b, height, width) and c > b):
            return Stage(path, a, b, c, height / b)
        if _fits(a, b, height, width):
            return Stage(path, c, a, b, height / a, "channels_last")
    if len(shape) == 3:
        _, tokens, channels = shape
        for prefix in range(min(9, tokens)):
            for stride in (1, 2, 4, 7, 8, 14, 16, 28, 32, 64):
                rows, columns = height // stride, width // stride
                if rows * columns == tokens - prefix and rows * columns > 1:
                    return Stage(path, channels, rows, columns, stride, "tokens")
    return None


def _fits(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether a rows x columns grid has the image's aspect ratio, up to rounding in the strides, and is not larger."""
    if rows > height or columns > width:
        return False
    return math.isclose(rows / height, columns / width, rel_tol=0.0, abs_tol=1.5 / min(height, width)) or (
        abs(rows * width / height - columns) <= 1
    )


def _last_of_shallowest(stages: Sequence[Stage], blocks: set[str]) -> Stage:
    depth = min(stage.path.count(".") for stage in stages)
    shallow = [stage for stage in stages if stage.path.count(".") == depth]
    return [stage for stage in shallow if stage.path in blocks or not any(s.path in blocks for s in shallow)][-1]


def _evenly_spaced(records: Sequence[Stage], count: int) -> list[Stage]:
    """`count` of the network's blocks, evenly spaced and ending with the last.

    The blocks are the longest chain of numbered siblings (blocks.0, blocks.1, ...), the shallowest of equally long ones.
    """
    chains: dict[str, list[Stage]] = {}
    for stage in records:
        parent, _, name = stage.path.rpartition(".")
        if name[-1].isdigit():
            chains.setdefault(parent, []).append(stage)
    longest = max(chains.values(), key=lambda chain: (len(chain), -chain[0].path.count(".")), default=list(records))
    count = min(count, len(longest))
    return [longest[(i + 1) * len(longest) // count - 1] for i in range(count)]
