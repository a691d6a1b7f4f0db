"""The choice among a network's feature maps: which modules stand for its stages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from angularkd.features.feature_maps import Grid, Stage

SAME_LEVEL = 0.15
"""Octaves of stride within which two resolutions count as one: convolutions without padding shave off a border."""

CONSTANT = 0.9
"""The share of a network's layers at one resolution from which on it is a network of constant resolution."""


def select_stages(model: nn.Module, stages: Sequence[Stage], blocks: int) -> list[Stage]:
    """Return the stages that stand for the network, shallow to deep.

    There is one for each resolution: the last block that works at it. Where almost all of the network works at one
    resolution, `blocks` evenly spaced blocks are taken instead.

    Args:
        model: whose modules the stages are.
        stages: the candidates, in the order in which they finish.
        blocks: how many blocks to take of a network of constant resolution.
    """
    candidates = _candidates(model, stages)
    layers = Counter(each.level for each in candidates if each.leaf and each.matrices)
    level, count = layers.most_common(1)[0] if layers else (0, 0)
    if layers and count >= CONSTANT * layers.total():
        chosen = _evenly_spaced([each for each in candidates if each.level == level], blocks)
    else:
        chosen = _last_of_levels(candidates)
    return [each.stage for each in chosen]


@dataclass(frozen=True)
class _Candidate:
    """A module that may become a stage.

    Attributes:
        stage: the module's output.
        level: number of its resolution, 0 the finest.
        family: the path of what it is part of, with numbers taken out: layer1.0 and layer2.1 are of one family, 'layer*'.
        matrices: how many weights of two dimensions or more it has: its layers, by and large.
        leaf: whether it holds no other modules.
    """

    stage: Stage
    level: int
    family: str
    matrices: int
    leaf: bool

    @property
    def parent(self) -> str:
        """Return the path of the module that holds it."""
        return self.stage.path.rpartition(".")[0]

    @property
    def block(self) -> bool:
        """Return whether it is more than a single layer with its normalisation."""
        return self.matrices > 1


def _candidates(model: nn.Module, stages: Sequence[Stage]) -> list[_Candidate]:
    levels = _levels(stages)
    candidates = []
    for stage in stages:
        module = model.get_submodule(stage.path)
        candidates.append(
            _Candidate(
                stage,
                levels[stage.grid],
                re.sub(r"\d+", "*", stage.path.rpartition(".")[0]),
                sum(parameter.ndim > 1 for parameter in module.parameters()),
                next(module.children(), None) is None,
            )
        )
    return candidates


def _levels(stages: Sequence[Stage]) -> dict[Grid, int]:
    """Number the resolutions from fine to coarse; nearly equal ones share a number."""
    grids = sorted({stage.grid for stage in stages}, key=math.prod, reverse=True)
    levels: dict[Grid, int] = {}
    for before, grid in zip([None, *grids], grids, strict=False):
        if before is None:
            levels[grid] = 0
        else:
            levels[grid] = levels[before] + (math.log2(math.prod(before) / math.prod(grid)) / 2 > SAME_LEVEL)
    return levels


def _last_of_levels(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the last block of each resolution, of the family that holds most of the network where that works at it."""
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
    """Return the paths of modules that hold blocks of several resolutions: networks in themselves, not stages."""
    inside: dict[str, set[int]] = {}
    for each in candidates:
        if each.block:
            inside.setdefault(each.parent, set()).add(each.level)
    return {path for path, levels in inside.items() if len(levels) > 1}


def _main_family(families: dict[str, list[_Candidate]]) -> str:
    """Return the family that holds the most layers; of equal ones, the shallowest."""
    return max(families, key=lambda name: (_matrices(families[name]), -_depth(name)), default="")


def _matrices(candidates: Iterable[_Candidate]) -> int:
    return sum(each.matrices for each in candidates)


def _evenly_spaced(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """Return `count` of the network's blocks, evenly spaced and ending with the last.

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


def _depth(path: str) -> int:
    return path.count(".") + 1 if path else 0
