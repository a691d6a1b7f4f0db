"""Features of any model by hooks on module paths. The model is never changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from angularkd.errors import InputError
from angularkd.features.attention import ClassToken, GradCAM
from angularkd.features.feature_maps import Stage
from angularkd.features.token_attention import TokenAttention
from angularkd.features.tracing import Head, logits_in
from angularkd.types import Features, Reduction


@dataclass(frozen=True)
class ModelOutput:
    """What one forward of a model gives.

    Attributes:
        logits: [batch, classes]; None where nothing asks for them and the model did not run.
        features: of its stages, by reduction, but for the reductions that need gradients (`with_class_maps` adds them).
        embedding: its head's input [batch, dim], where a head is known.
        stage_outputs: of the stages' modules, unreduced, where a reduction needs gradients.
    """

    logits: Tensor | None
    features: Mapping[Reduction | None, Features]
    embedding: Tensor | None
    stage_outputs: tuple[Tensor, ...] = ()


class FeatureExtractor:
    """Runs a model and returns the features of some of its stages, and its embedding, beside its logits.

    Also a context manager, which closes it at the end.

    Args:
        model: any module; it runs unchanged. Where it gives an object whose `logits` they are (GoogLeNet in training), these
            are returned.
        stages: whose features to extract, from `find_stages` or `stages_at`.
        reductions: to what maps to reduce each stage's features, inside of the hook, so that whole features are never
            all held; `None` stands for the features whole. Where one needs gradients, the forward records them in any case.
        head: the classification layer, whose input is the embedding.
        forward: from images to logits, calling the model (with preprocessing before it, say); by default the model itself.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        reductions: Sequence[Reduction | None] = (None,),
        head: Head | None = None,
        forward: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.model = model
        self.stages = tuple(stages)
        self.reductions = tuple(reductions)
        self._forward = forward if forward is not None else model
        self._needs_gradients = any(isinstance(r, GradCAM) for r in reductions)
        self._in_hook = tuple(r for r in reductions if not isinstance(r, GradCAM))
        self._rollouts = [r.rollout for r in reductions if isinstance(r, ClassToken)]
        self._active = False
        self._attention: TokenAttention | None = None
        self._embedding: Tensor | None = None
        self._stored: list[tuple[Tensor, ...] | None] = [None] * len(self.stages)
        self._stage_outputs: list[Tensor | None] = [None] * len(self.stages)
        self._handles = [
            model.get_submodule(stage.path).register_forward_hook(self._hook(i, stage))
            for i, stage in enumerate(self.stages)
        ]
        if self._needs_gradients:
            self._handles.append(model.register_forward_pre_hook(self._make_differentiable))
        if head is not None:
            self._handles.append(model.get_submodule(head.path).register_forward_pre_hook(self._store_embedding))

    def __call__(self, images: Tensor) -> ModelOutput:
        """Run the model on images [batch, 3, height, width].

        Raises:
            InputError: where the forward does not reach a stage, a stage lacks what a reduction needs, or there are no logits.
        """
        self._active = True
        self._attention = TokenAttention(any(self._rollouts)) if self._rollouts and self.stages else None
        try:
            with (
                self._attention or nullcontext(),
                # the other kernels have no second derivative
                sdpa_kernel(SDPBackend.MATH) if self._needs_gradients else nullcontext(),
                torch.set_grad_enabled(self._needs_gradients or torch.is_grad_enabled()),
            ):
                output = logits_in(self._forward(images))
            stored = [values for values in self._stored if values is not None]
            stage_outputs = tuple(values for values in self._stage_outputs if values is not None)
            embedding = self._embedding
        finally:
            self._active, self._attention, self._embedding = False, None, None
            self._stored, self._stage_outputs = [None] * len(self.stages), [None] * len(self.stages)
        if len(stored) < len(self.stages):
            raise InputError("a stage was not reached by this forward: pair stages that every forward runs through")
        if not isinstance(output, Tensor):
            raise InputError(f"the model gives a {type(output).__name__}, not logits: return a tensor")
        features = {reduction: [values[i] for values in stored] for i, reduction in enumerate(self._in_hook)}
        return ModelOutput(output, features, embedding, stage_outputs)

    def close(self) -> None:
        """Remove every hook, which leaves the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hook(self, index: int, stage: Stage) -> Any:
        def store(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not self._active:
                return
            output = stage.tensor(output)
            if self._needs_gradients:
                self._stage_outputs[index] = output
            features = stage.as_map(output)
            self._stored[index] = tuple(self._reduce(stage, features, reduction) for reduction in self._in_hook)

        return store

    def _reduce(self, stage: Stage, features: Tensor, reduction: Reduction | None) -> Tensor:
        if reduction is None:
            return features
        return reduction(self._class_attention(stage, reduction) if isinstance(reduction, ClassToken) else features)

    def _class_attention(self, stage: Stage, mechanism: ClassToken) -> Tensor:
        """Return the class token's attention to the patches of a stage, as [batch, height, width]."""
        row = self._attention.row(mechanism.rollout) if self._attention is not None else None
        if row is None or row.shape[1] <= stage.positions:
            found = "no self-attention" if row is None else f"attention among {row.shape[1]} tokens"
            raise InputError(
                f"stage {stage} has {found} with a class token before its {stage.positions} patches: "
                "use attention=token_norm, or a transformer with a class token"
            )
        return row[:, -stage.positions :].reshape(len(row), stage.height, stage.width)

    def _make_differentiable(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Let the images of a frozen model require gradients: nothing in it could be differentiated otherwise."""
        if not self._active or any(parameter.requires_grad for parameter in model.parameters()):
            return None
        return inputs[0].detach().requires_grad_(), *inputs[1:]

    def _store_embedding(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._active:
            self._embedding = inputs[0].flatten(1)
