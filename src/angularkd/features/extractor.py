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
from angularkd.features.feature_maps import Stage, Tap
from angularkd.features.pre_activation import PreActivation
from angularkd.features.taps import TapHooks
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
        distillation_logits: [batch, classes] of a second head, where the model gives a pair.
    """

    logits: Tensor | None
    features: Mapping[Reduction | None, Features]
    embedding: Tensor | None
    stage_outputs: tuple[Tensor, ...] = ()
    distillation_logits: Tensor | None = None


class FeatureExtractor:
    """Runs a model and returns the features of some of its stages, and its embedding, beside its logits.

    Also a context manager, which closes it at the end.

    Args:
        model: any module; it runs unchanged. Where it gives an object whose `logits` they are (GoogLeNet in training), these
            are returned; where it gives the logits of two heads (distilled DeiT in training), these of the first are the logits.
        stages: whose features to extract, from `find_stages` or `stages_at`.
        reductions: to what maps to reduce each stage's features, inside of the hook, so that whole features are never
            all held; `None` stands for the features whole. Where one needs gradients, the forward records them in any case.
        head: the classification layer, whose input is the embedding, before any dropout.
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
        self._rollouts = [r.rollout for r in reductions if isinstance(r, ClassToken)]
        self._active = False
        self._attention: TokenAttention | None = None
        self._embedding: Tensor | None = None
        self._readings = _readings(self.stages, reductions)
        self._stored: list[tuple[Tensor, ...] | None] = [None] * len(self._readings)
        self._stage_outputs: list[Tensor | None] = [None] * len(self.stages)
        readers = [(reading.tap, self._store(i, reading)) for i, reading in enumerate(self._readings)]
        if head is not None:
            tap = head.before_dropout or Tap(head.path, "input", (0, 0))
            readers.append((tap, self._store_embedding(tap)))
        self._hooks = TapHooks(model, readers)
        self._differentiable = (
            model.register_forward_pre_hook(self._make_differentiable) if self._needs_gradients else None
        )

    def __call__(self, images: Tensor) -> ModelOutput:
        """Run the model on images [batch, 3, height, width].

        Raises:
            InputError: where the forward does not reach a stage, a stage lacks what a reduction needs, or there are no logits.
        """
        self._active = True
        self._attention = TokenAttention(any(self._rollouts)) if self._rollouts and self.stages else None
        try:
            with (
                self._hooks.start() or nullcontext(),
                self._attention or nullcontext(),
                # the other kernels have no second derivative
                sdpa_kernel(SDPBackend.MATH) if self._needs_gradients else nullcontext(),
                torch.set_grad_enabled(self._needs_gradients or torch.is_grad_enabled()),
            ):
                output, second = _heads_in(logits_in(self._forward(images)))
            stored = [values for values in self._stored if values is not None]
            stage_outputs = tuple(values for values in self._stage_outputs if values is not None)
            embedding = self._embedding
        finally:
            self._hooks.stop()
            self._active, self._attention, self._embedding = False, None, None
            self._stored, self._stage_outputs = [None] * len(self._readings), [None] * len(self.stages)
        if len(stored) < len(self._readings):
            raise InputError("a stage was not reached by this forward: pair stages that every forward runs through")
        if not isinstance(output, Tensor):
            raise InputError(f"the model gives a {type(output).__name__}, not logits: return a tensor")
        features: dict[Reduction | None, Features] = {}
        for reading, values in zip(self._readings, stored, strict=True):
            for reduction, value in zip(reading.reductions, values, strict=True):
                features.setdefault(reduction, []).append(value)
        return ModelOutput(output, features, embedding, stage_outputs, second)

    def close(self) -> None:
        """Remove every hook, which leaves the model as it was."""
        self._hooks.close()
        if self._differentiable is not None:
            self._differentiable.remove()

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _store(self, index: int, reading: _Reading) -> Callable[[Tensor], None]:
        def store(tensor: Tensor) -> None:
            if self._needs_gradients and index < len(self.stages):
                self._stage_outputs[index] = tensor
            features = reading.stage.as_map(reading.tap.copied(tensor))
            self._stored[index] = tuple(self._reduce(reading.stage, features, each) for each in reading.reductions)

        return store

    def _store_embedding(self, tap: Tap) -> Callable[[Tensor], None]:
        def store(tensor: Tensor) -> None:
            self._embedding = tap.copied(tensor).flatten(1)

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


def _heads_in(output: Any) -> tuple[Any, Tensor | None]:
    """Return an output's logits and those of its second head: of a pair of equally large matrices, both; else the output and None."""
    if isinstance(output, tuple) and len(output) == 2:
        first, second = output
        both = isinstance(first, Tensor) and isinstance(second, Tensor)
        if both and first.ndim == 2 and first.shape == second.shape:
            return first, second
    return output, None


@dataclass(frozen=True)
class _Reading:
    """What is read of one stage at one place, and the maps to which it is reduced there."""

    stage: Stage
    tap: Tap
    reductions: tuple[Reduction | None, ...]


def _readings(stages: Sequence[Stage], reductions: Sequence[Reduction | None]) -> list[_Reading]:
    """Return what is read of all stages: their features first, whose gradients Grad-CAM takes too, then those before activations."""
    of_features = tuple(r for r in reductions if not isinstance(r, GradCAM | PreActivation))
    before = tuple(r for r in reductions if isinstance(r, PreActivation))
    needs_features = len(before) < len(reductions)
    readings = [_Reading(stage, stage.tap, of_features) for stage in stages if needs_features]
    return readings + [_Reading(stage, stage.before_activation or stage.tap, before) for stage in stages if before]
