"""The stages of any model: which of the modules that give feature maps stand for the network."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from angularkd.errors import InputError, nearest
from angularkd.features.tracing import Layout, Stage, Trace, trace, undisturbed, with_overwriting

__all__ = ["Head", "Layout", "Stage", "find_head", "find_stages", "stages_at", "undisturbed"]

SAME_LEVEL = 0.15
"""Octaves of stride within which two resolutions count as one: convolutions without padding shave off a border."""

CONSTANT = 0.9
"""The share of a network's layers at one resolution from which on it is a network of constant resolution."""


@dataclass(frozen=True)
class Head:
    """The layer that turns a model's embedding into its logits: its path, and the embedding's width."""

    path: str
    dim: int


def find_stages(model: nn.Module, images: Tensor, blocks: int = 4) -> list[Stage]:
    """The stages of a model, shallow to deep, found by a dry forward, from shapes alone.

    There is one for each resolution that the network passes through: the last block that works at it. Where almost all
    of the network works at one resolution (a vision transformer, say), it is sampled at `blocks` evenly spaced blocks
    instead. Maps of a single position are left out: they carry no attention. The model's modes, its statistics and the
    random state are left as they were.

    Args:
        images: [batch, 3, height, width]; only the shape matters.
    """
    traces = [seen for seen in on_trunk(trace(model, images)) if seen.stage.height * seen.stage.width > 1]
    candidates = _candidates(model, [seen.stage for seen in traces])
    layers = Counter(each.level for each in candidates if each.leaf and each.matrices)
    level, count = layers.most_common(1)[0] if layers else (0, 0)
    if layers and count >= CONSTANT * layers.total():
        chosen = _evenly_spaced([each for each in candidates if each.level == level], blocks)
    else:
        chosen = _last_of_levels(candidates)
    return with_overwriting(model, [each.stage for each in chosen], images)


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
    found = {seen.stage.path: seen.stage for seen in trace(model, images)}
    for path in paths:
        if path not in found:
            raise InputError(
                f"module '{path}' of the {role} gives no single feature map: name a module that outputs [B, C, H, W], "
                f"[B, H, W, C] or [B, N, C] once a forward{nearest(path, found)}"
            )
        if found[path].height * found[path].width < 2:
            raise InputError(
                f"module '{path}' of the {role} gives a 1x1 map, which carries no attention: name a shallower module, or use larger images"
            )
    return with_overwriting(model, [found[path] for path in paths], images)


def on_trunk(traces: Iterable[Trace]) -> list[Trace]:
    """Without what modules do inside at a resolution that is not between those of what they take and give.

    So attention matrices, windows and pooled side branches are no stages.
    """
    traces = list(traces)
    bounds = {seen.stage.path: (_area(seen.taken), _area(_grid(seen.stage))) for seen in traces if seen.taken}

    def inside(seen: Trace) -> bool:
        around = (bounds[path] for path in _ancestors(seen.stage.path) if path in bounds)
        return all(min(pair) <= _area(_grid(seen.stage)) <= max(pair) for pair in around)

    return [seen for seen in traces if inside(seen)]


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


@dataclass(frozen=True)
class _Candidate:
    """A module that may become a stage.

    level: number of its resolution, 0 the finest.
    family: the path of what it is part of, with numbers taken out: layer1.0 and layer2.1 are of one family, 'layer*'.
    matrices: how many weights of two dimensions or more it has: its layers, by and large.
    """

    stage: Stage
    level: int
    family: str
    matrices: int
    leaf: bool

    @property
    def parent(self) -> str:
        return self.stage.path.rpartition(".")[0]

    @property
    def block(self) -> bool:
        """Whether it is more than a single layer with its normalisation."""
        return self.matrices > 1


def _candidates(model: nn.Module, stages: Sequence[Stage]) -> list[_Candidate]:
    levels = _levels(stages)
    candidates = []
    for stage in stages:
        module = model.get_submodule(stage.path)
        candidates.append(
            _Candidate(
                stage,
                levels[_grid(stage)],
                re.sub(r"\d+", "*", stage.path.rpartition(".")[0]),
                sum(parameter.ndim > 1 for parameter in module.parameters()),
                next(module.children(), None) is None,
            )
        )
    return candidates


def _levels(stages: Sequence[Stage]) -> dict[tuple[int, int], int]:
    """A number for each resolution, from fine to coarse; nearly equal ones share theirs."""
    grids = sorted({_grid(stage) for stage in stages}, key=_area, reverse=True)
    levels: dict[tuple[int, int], int] = {}
    for before, grid in zip([None, *grids], grids, strict=False):
        if before is None:
            levels[grid] = 0
        else:
            levels[grid] = levels[before] + (math.log2(_area(before) / _area(grid)) / 2 > SAME_LEVEL)
    return levels


def _last_of_levels(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The last block of each resolution, of the family that holds most of the network where that works at it."""
    spanning = _spanning(candidates)
    families: dict[str, list[_Candidate]] = {}
    for each in candidates:
        if each.stage.path not in spanning:
            families.setdefault(each.family, []).append(each)
    main = _main_family(families)
    chosen = []
    for level in sorted({each.level for each in candidates if each.matrices}):
        at_level = {
            name: members
            for name, family in families.items()
            if _matrices(members := [each for each in family if each.level == level])
        }

        def preference(name: str, at_level: dict[str, list[_Candidate]] = at_level) -> tuple[bool, bool, int, int]:
            has_block = any(each.block for each in at_level[name])
            return name != main, not has_block, _depth(name), -_matrices(at_level[name])

        members = at_level[min(at_level, key=preference)]
        chosen.append(([each for each in members if each.block] or members)[-1])
    return chosen


def _spanning(candidates: Sequence[_Candidate]) -> set[str]:
    """Paths of modules that hold blocks of several resolutions: networks in themselves, not stages."""
    inside: dict[str, set[int]] = {}
    for each in candidates:
        if each.block:
            inside.setdefault(each.parent, set()).add(each.level)
    return {path for path, levels in inside.items() if len(levels) > 1}


def _main_family(families: dict[str, list[_Candidate]]) -> str:
    """The family that holds the most layers; of equal ones, the shallowest."""
    return max(families, key=lambda name: (_matrices(families[name]), -_depth(name)), default="")


def _matrices(candidates: Iterable[_Candidate]) -> int:
    return sum(each.matrices for each in candidates)


def _evenly_spaced(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """`count` of the network's blocks, evenly spaced and ending with the last.

    The blocks are the chain of numbered siblings (blocks.0, blocks.1, ...) that holds the most layers.
    """
    chains: dict[str, list[_Candidate]] = {}
    for each in candidates:
        if each.stage.path[-1].isdigit():
            chains.setdefault(each.parent, []).append(each)
    several = {parent: chain for parent, chain in chains.items() if len(chain) > 1}
    main = min(several, key=lambda parent: (-_matrices(several[parent]), _depth(parent)), default=None)
    chain = several[main] if main is not None else list(candidates)
    count = min(count, len(chain))
    return [chain[(i + 1) * len(chain) // count - 1] for i in range(count)]


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _depth(path: str) -> int:
    return path.count(".") + 1 if path else 0


def _grid(stage: Stage) -> tuple[int, int]:
    return stage.height, stage.width


def _area(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]
