"""Attention maps that take a gradient of the logits: computed behind the forward, where the logits are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from angularkd.errors import InputError
from angularkd.features.attention import GradCAM
from angularkd.features.extractor import ModelOutput
from angularkd.features.feature_maps import Stage
from angularkd.types import Reduction


def with_class_maps(
    output: ModelOutput,
    stages: Sequence[Stage],
    reductions: Sequence[Reduction | None],
    labels: Tensor | None,
    teacher_logits: Tensor,
    *,
    create_graph: bool,
) -> ModelOutput:
    """Return a model's output with the maps of those reductions that need gradients, if there are any.

    Args:
        output: of a FeatureExtractor with these stages and reductions.
        stages: of the model.
        reductions: all that are asked for; those that need no gradients are in the output already.
        labels: class indices [batch], or soft labels [batch, classes].
        teacher_logits: [batch, classes].
        create_graph: whether the maps will be differentiated in their turn, as the student's are; otherwise they and the
            logits are detached.

    Raises:
        InputError: where the logits do not depend on a stage.
    """
    if not output.stage_outputs:
        return output
    assert output.logits is not None, "a model that has run gives logits"
    features = dict(output.features)
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        for reduction in reductions:
            if isinstance(reduction, GradCAM):
                weights = reduction.class_weights(output.logits, labels, teacher_logits)
                gradients = _gradients(output.logits, weights, stages, output.stage_outputs, create_graph)
                each = zip(stages, output.stage_outputs, gradients, strict=True)
                maps = [reduction(stage.as_map(values), stage.as_map(gradient)) for stage, values, gradient in each]
                features[reduction] = maps if create_graph else [one.detach() for one in maps]
    logits = output.logits if create_graph else output.logits.detach()
    return replace(output, logits=logits, features=features, stage_outputs=())


def _gradients(
    logits: Tensor, class_weights: Tensor, stages: Sequence[Stage], outputs: Sequence[Tensor], create_graph: bool
) -> list[Tensor]:
    """Return the gradients of the weighted sum of the logits with respect to the stages' outputs."""
    if class_weights.is_inference():
        class_weights = class_weights.clone()  # such tensors are not saved for a backward
    missing = [stage for stage, output in zip(stages, outputs, strict=True) if not output.requires_grad]
    gradients: tuple[Tensor | None, ...] = ()
    if not missing:
        with torch.enable_grad():
            score = (logits * class_weights).sum()
            try:
                gradients = torch.autograd.grad(
                    score, outputs, retain_graph=True, create_graph=create_graph, allow_unused=True
                )
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                gradients = (None,) * len(outputs)
        missing = [stage for stage, gradient in zip(stages, gradients, strict=True) if gradient is None]
    if missing:
        raise InputError(f"the logits do not depend on stage {missing[0]}, which Grad-CAM needs: pair another stage")
    return [gradient for gradient in gradients if gradient is not None]
