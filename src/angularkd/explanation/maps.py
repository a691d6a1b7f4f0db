"""AMD on one image: the maps of teacher and student at several margins, and how alike the gradients of its parts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.features import FeatureExtractor, Pair, match_sizes, normalise, to_map, with_class_maps
from angularkd.losses import AMDLoss

PARTS = ("angular", "positive", "negative")
PARTINGS = (("angular", "positive"), ("angular", "negative"), ("positive", "negative"))


@dataclass(frozen=True)
class StageMaps:
    """The maps of one model at one stage, each [height, width].

    Attributes:
        attention: Q.
        by_margin: for each margin the angular, positive and negative map.
    """

    attention: Tensor
    by_margin: Mapping[float, tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Explanation:
    """The maps, values and gradients of AMD on one image.

    Attributes:
        pairs: the paired stages.
        stages: for each pair, the maps of the teacher and of the student.
        distance: by margin, AMD's value for each pair.
        cosines: by margin, for each pair the cosines between the gradients of AMD's parts with respect to the student's
            attention map P, in the order of PARTINGS; the last row is of the gradients with respect to the student's
            parameters, all pairs together. Not a number where a gradient is zero.
    """

    pairs: tuple[Pair, ...]
    stages: tuple[tuple[StageMaps, StageMaps], ...]
    distance: Mapping[float, tuple[float, ...]]
    cosines: Mapping[float, tuple[tuple[float, ...], ...]]

    @property
    def alike(self) -> tuple[float, ...]:
        """Return for each pair the cosine between the attention maps of teacher and student: 1 where they look at the same."""
        return tuple(float((t.attention * s.attention).sum()) for t, s in self.stages)


def explain_image(
    teacher: nn.Module,
    student: nn.Module,
    teacher_image: Tensor,
    student_image: Tensor,
    pairs: Sequence[Pair],
    margins: Sequence[float],
    **options: Any,
) -> Explanation:
    """Compute the maps and gradients of AMD for one image.

    Args:
        teacher: in evaluation mode.
        student: in evaluation mode.
        teacher_image: [1, 3, height, width], preprocessed for the teacher.
        student_image: [1, 3, height, width], preprocessed for the student.
        pairs: of stages to compare.
        margins: multiplicative margins to compare.
        options: of `AMDLoss`, but for the margin.

    Raises:
        InputError: where a stage lacks what the attention mechanism needs.
    """
    losses = {margin: AMDLoss(margin=margin, **options) for margin in margins}
    reduction = next(iter(losses.values())).reduction
    teacher_stages, student_stages = [pair.teacher for pair in pairs], [pair.student for pair in pairs]
    with (
        FeatureExtractor(teacher, teacher_stages, (reduction,)) as teacher_extractor,
        FeatureExtractor(student, student_stages, (reduction,)) as student_extractor,
        torch.enable_grad(),
    ):
        teacher_output, student_output = teacher_extractor(teacher_image), student_extractor(student_image)
        assert teacher_output.logits is not None, "a model that has run gives logits"
        logits, reductions = teacher_output.logits.detach(), (reduction,)
        teacher_output = with_class_maps(teacher_output, teacher_stages, reductions, None, logits, create_graph=False)
        student_output = with_class_maps(student_output, student_stages, reductions, None, logits, create_graph=True)
        both = zip(student_output.features[reduction], teacher_output.features[reduction], strict=True)
        maps = [match_sizes(to_map(s, reduction), to_map(t, reduction).detach()) for s, t in both]
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        cosines, distance = {}, {}
        for margin, loss in losses.items():
            parts = [loss.by_map([s], [t]) for s, t in maps]
            rows = [_cosines(part, [s]) for part, (s, _) in zip(parts, maps, strict=True)]
            cosines[margin] = (*rows, _cosines(torch.stack(parts).sum(dim=0), parameters))
            distance[margin] = tuple(part.sum().item() for part in parts)
    with torch.no_grad():
        stages = tuple((_maps(t, losses), _maps(s, losses)) for s, t in maps)
    return Explanation(tuple(pairs), stages, distance, cosines)


def _maps(power_map: Tensor, losses: Mapping[float, AMDLoss]) -> StageMaps:
    eps = next(iter(losses.values())).eps
    by_margin = {margin: tuple(loss.maps(power_map)[:, 0].cpu()) for margin, loss in losses.items()}
    return StageMaps(normalise(power_map, eps)[0].cpu(), by_margin)


def _cosines(parts: Tensor, inputs: Sequence[Tensor]) -> tuple[float, ...]:
    """Return the cosines between the gradients of the three parts with respect to the inputs, all in one vector."""
    gradients = {}
    for name, part in zip(PARTS, parts, strict=True):
        found = torch.autograd.grad(part, inputs, retain_graph=True, allow_unused=True)
        flat = [
            g.flatten() if g is not None else torch.zeros_like(i).flatten() for g, i in zip(found, inputs, strict=True)
        ]
        gradients[name] = torch.cat(flat).double()
        gradients[name] /= torch.linalg.vector_norm(gradients[name])  # a zero becomes not a number
    return tuple(float(gradients[a] @ gradients[b]) for a, b in PARTINGS)
