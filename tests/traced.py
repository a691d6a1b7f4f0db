"""What tests of features ask of a model in one go: its stages, traced on images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from angularkd.features import Pair, Stage, find_stages, pair_models, stages_at, trace


def stages_of(model: nn.Module, images: Tensor, blocks: int = 4) -> list[Stage]:
    """Return the stages that are found by themselves."""
    return find_stages(model, trace(model, images), blocks)


def named_stages(model: nn.Module, paths: Sequence[str], images: Tensor, role: str = "model") -> list[Stage]:
    """Return the stages at these paths."""
    return stages_at(model, paths, trace(model, images), role)


def pairs_of(teacher: nn.Module, student: nn.Module, images: Tensor, pairs: str | None = None) -> list[Pair]:
    """Return the pairs of two models that get the same images."""
    return pair_models(teacher, student, trace(teacher, images), trace(student, images), pairs)
