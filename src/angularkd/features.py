"""Features of any model by hooks on module paths. The model is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.stages import Head, Stage, first_tensor
from angularkd.types import Features, Reduction


@dataclass(frozen=True)
class Seen:
    """What a model showed in one forward: its output, its stages' features by reduction, its head's input [batch, dim]."""

    output: Any
    features: dict[Reduction | None, Features]
    embedding: Tensor | None


class FeatureExtractor:
    """Runs a model and hands out the features of some of its stages, and its embedding, beside its output.

    Args:
        model: any module; its forward runs unchanged and its output is returned as it is.
        stages: where to look, from `find_stages` or `stages_at`.
        reductions: what to keep of each stage's features, computed inside the hook so that whole features are never
            all held; `None` keeps them whole.
        head: the classification layer, whose input is handed out as the embedding.

    `close()` removes the hooks and leaves the model as it was. Also a context manager.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        reductions: Sequence[Reduction | None] = (None,),
        head: Head | None = None,
    ) -> None:
        self.model = model
        self.stages = tuple(stages)
        self.reductions = tuple(reductions)
        self._kept: list[tuple[Tensor, ...] | None] = [None] * len(self.stages)
        self._embedding: Tensor | None = None
        self._listening = False
        self._handles = [
            model.get_submodule(stage.path).register_forward_hook(self._hook(i, stage))
            for i, stage in enumerate(self.stages)
        ]
        if head is not None:
            self._handles.append(model.get_submodule(head.path).register_forward_pre_hook(self._keep_embedding))

    def __call__(self, images: Tensor) -> Seen:
        self._listening = True
        try:
            output = self.model(images)
        finally:
            self._listening = False
        kept = [values for values in self._kept if values is not None]
        embedding = self._embedding
        self._kept, self._embedding = [None] * len(self.stages), None
        if len(kept) < len(self.stages):
            raise InputError("a stage was not reached by this forward: pair stages that every forward runs through")
        features = {reduction: [values[i] for values in kept] for i, reduction in enumerate(self.reductions)}
        return Seen(output, features, embedding)

    def _hook(self, index: int, stage: Stage) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._listening:
                features = stage.as_map(first_tensor(output))
                self._kept[index] = tuple(r(features) if r is not None else features for r in self.reductions)

        return keep

    def _keep_embedding(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._listening:
            self._embedding = inputs[0].flatten(1)

    def close(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
