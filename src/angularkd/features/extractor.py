"""Features of any model by hooks on module paths. The model is never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from angularkd.errors import InputError
from angularkd.features.attention import ClassToken, GradCAM
from angularkd.features.stages import Head, Stage
from angularkd.features.token_attention import AttentionWatch
from angularkd.types import Features, Reduction


@dataclass(frozen=True)
class ModelOutput:
    """What a model showed in one forward.

    output:    the model's.
    features:  of its stages, by reduction, but for the reductions that look at gradients (`with_class_maps` adds them).
    embedding: its head's input [batch, dim].
    outputs:   of the stages' modules as they were, kept where a reduction looks at gradients.
    """

    output: Any
    features: Mapping[Reduction | None, Features]
    embedding: Tensor | None
    outputs: tuple[Tensor, ...] = ()


class FeatureExtractor:
    """Runs a model and hands out the features of some of its stages, and its embedding, beside its output.

    Args:
        model: any module; its forward runs unchanged and its output is returned as it is.
        stages: where to look, from `find_stages` or `stages_at`.
        reductions: what to keep of each stage's features, computed inside the hook so that whole features are never
            all held; `None` keeps them whole. Where one looks at gradients, the forward records them in any case.
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
        self._gradients = any(isinstance(r, GradCAM) for r in reductions)
        self._in_hook = tuple(r for r in reductions if not isinstance(r, GradCAM))
        self._rollouts = [r.rollout for r in reductions if isinstance(r, ClassToken)]
        self._watch: AttentionWatch | None = None
        self._kept: list[tuple[Tensor, ...] | None] = [None] * len(self.stages)
        self._outputs: list[Tensor | None] = [None] * len(self.stages)
        self._embedding: Tensor | None = None
        self._listening = False
        self._handles = [
            model.get_submodule(stage.path).register_forward_hook(self._hook(i, stage))
            for i, stage in enumerate(self.stages)
        ]
        if head is not None:
            self._handles.append(model.get_submodule(head.path).register_forward_pre_hook(self._keep_embedding))

    def __call__(self, images: Tensor) -> ModelOutput:
        self._listening = True
        self._watch = AttentionWatch(any(self._rollouts)) if self._rollouts and self.stages else None
        try:
            if self._gradients and not any(parameter.requires_grad for parameter in self.model.parameters()):
                images = images.detach().requires_grad_()  # else nothing of a frozen model could be differentiated
            kernels = (
                sdpa_kernel(SDPBackend.MATH) if self._gradients else nullcontext()
            )  # the others have no second derivative
            with (
                self._watch or nullcontext(),
                kernels,
                torch.set_grad_enabled(self._gradients or torch.is_grad_enabled()),
            ):
                output = self.model(images)
            kept = [values for values in self._kept if values is not None]
            outputs = tuple(value for value in self._outputs if value is not None)
            embedding = self._embedding
        finally:
            self._listening, self._watch, self._embedding = False, None, None
            self._kept, self._outputs = [None] * len(self.stages), [None] * len(self.stages)
        if len(kept) < len(self.stages):
            raise InputError("a stage was not reached by this forward: pair stages that every forward runs through")
        features = {reduction: [values[i] for values in kept] for i, reduction in enumerate(self._in_hook)}
        return ModelOutput(output, features, embedding, outputs)

    def _hook(self, index: int, stage: Stage) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not self._listening:
                return
            output = stage.tensor(output)
            if self._gradients:
                self._outputs[index] = output
            features = stage.as_map(output)
            self._kept[index] = tuple(self._reduce(stage, features, reduction) for reduction in self._in_hook)

        return keep

    def _reduce(self, stage: Stage, features: Tensor, reduction: Reduction | None) -> Tensor:
        if reduction is None:
            return features
        return reduction(self._class_attention(stage, reduction) if isinstance(reduction, ClassToken) else features)

    def _class_attention(self, stage: Stage, mechanism: ClassToken) -> Tensor:
        """The class token's attention to the patches of a stage, as [batch, height, width]."""
        row = self._watch.row(mechanism.rollout) if self._watch is not None else None
        patches = stage.height * stage.width
        if row is None or row.shape[1] <= patches:
            seen = "no self-attention" if row is None else f"attention among {row.shape[1]} tokens"
            raise InputError(
                f"stage {stage} has {seen} with a class token before its {patches} patches: use attention=token_norm, or a "
                "transformer with a class token"
            )
        return row[:, -patches:].reshape(len(row), stage.height, stage.width)

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


def with_class_maps(
    seen: ModelOutput, extractor: FeatureExtractor, labels: Tensor | None, teacher_logits: Tensor, *, create_graph: bool
) -> ModelOutput:
    """What was seen, with the maps of the reductions that look at gradients, if the extractor has any.

    labels: [batch], or soft [batch, classes]; teacher_logits: [batch, classes].
    create_graph: whether the maps shall be differentiated in their turn, as the student's are; the others are detached.
    """
    if not seen.outputs:
        return seen
    features = dict(seen.features)
    for reduction in extractor.reductions:
        if isinstance(reduction, GradCAM):
            with torch.enable_grad():
                score = (seen.output * reduction.class_weights(seen.output, labels, teacher_logits)).sum()
                gradients = torch.autograd.grad(
                    score, seen.outputs, retain_graph=True, create_graph=create_graph, allow_unused=True
                )
            for stage, gradient in zip(extractor.stages, gradients, strict=True):
                if gradient is None:
                    raise InputError(
                        f"the logits do not depend on stage {stage}, which Grad-CAM needs: pair another stage"
                    )
            both = zip(extractor.stages, seen.outputs, gradients, strict=True)
            maps = [reduction(stage.as_map(output), stage.as_map(gradient)) for stage, output, gradient in both]
            features[reduction] = maps if create_graph else [one.detach() for one in maps]
    output = seen.output if create_graph else seen.output.detach()
    return replace(seen, output=output, features=features, outputs=())
