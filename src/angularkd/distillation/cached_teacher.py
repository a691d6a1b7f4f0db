"""A frozen teacher that answers from its cache, and runs only for images that are not in it yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.distillation.teacher_cache import Field, TeacherCache
from angularkd.errors import InputError
from angularkd.features.extractor import FeatureExtractor, ModelOutput
from angularkd.types import Reduction

Answer = Callable[[Tensor], ModelOutput]

LOGITS, TOP_LOGITS, TOP_CLASSES, EMBEDDING = "logits", "top logits", "top classes", "embedding"
TINY = 1e-12
"""Least norm by which a map is divided."""


class CachedTeacher:
    """Answers for sample i in view v as the teacher does, from a cache where that answer is kept already.

    Kept are the logits, the embedding, and the maps of the stages, each map divided by its own norm, which no loss on maps
    looks at: P / ||P||_F fits into float16 whatever the size of P. All are rounded to float16, also when they are first made, so
    that a run sees the same numbers whether the cache was warm or not.

    Where an answer of a batch is not there, the teacher runs for the whole batch, so that it always sees one shape.

    Args:
        teacher: from images to what it shows, in evaluation mode and without gradients.
        extractor: the teacher's, which says what is kept.
        cache: with the fields of `fields_of`.
        classes: of the teacher's logits.
        top: how many of the logits are kept; None for all.
    """

    def __init__(
        self, teacher: Answer, extractor: FeatureExtractor, cache: TeacherCache, classes: int, top: int | None = None
    ) -> None:
        self.teacher = teacher
        self.extractor = extractor
        self.cache = cache
        self.classes = classes
        self.top = top

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], indices: Int[Tensor, " batch"], view: int
    ) -> ModelOutput:
        self.fill(images, indices, view)
        return self._seen(self.cache.read(view, indices, images.device))

    def fill(self, images: Float[Tensor, "batch 3 height width"], indices: Int[Tensor, " batch"], view: int) -> int:
        """Have the teacher answer where an answer is not there; how many were not."""
        missing = self.cache.missing(view, indices).nonzero()[:, 0]
        if len(missing):
            values = answers(self.teacher(images), self.extractor, len(images), self.top)
            here = missing.to(images.device)
            new = {field.name: values[field.name].index_select(0, here) for field in self.cache.fields}
            self.cache.write(view, indices.cpu()[missing], new)
        return len(missing)

    def live(self, seen: ModelOutput, count: int, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a teacher showed for `count` images, to be compared with what is kept of them: of the same classes.

        Raises InputError for classes that there are not.
        """
        classes = kept.get(TOP_CLASSES)
        if classes is not None and not bool(((classes >= 0) & (classes < self.classes)).all()):
            raise InputError(
                f"the teacher cache {self.cache.folder} is damaged (it names classes that the teacher has not): "
                "remove the folder, and it is filled anew"
            )
        return answers(seen, self.extractor, count, self.top, classes)

    def _seen(self, values: dict[str, Tensor]) -> ModelOutput:
        logits = values.get(LOGITS)
        if logits is None and TOP_LOGITS in values:
            logits = from_top(values[TOP_LOGITS], values[TOP_CLASSES], self.classes)
        features = {
            reduction: [values[map_name(stage.path, reduction)].flatten(0, -3) for stage in self.extractor.stages]
            for reduction in self.extractor.reductions
        }
        return ModelOutput(logits, features, values.get(EMBEDDING))


def answers(
    seen: ModelOutput,
    extractor: FeatureExtractor,
    count: int,
    top: int | None = None,
    top_classes: Int[Tensor, "batch top"] | None = None,
) -> dict[str, Tensor]:
    """All that can be kept of what a teacher showed for `count` images, by the field's name: [count, *shape] each.

    top: how many logits; None for all. top_classes: of which classes, instead of the largest.
    """
    values = {LOGITS: seen.output}
    if top is not None and top < seen.output.shape[1]:
        classes = seen.output.float().topk(top, dim=1).indices if top_classes is None else top_classes
        values = {TOP_LOGITS: to_top(seen.output, classes), TOP_CLASSES: classes}
    if seen.embedding is not None:
        values[EMBEDDING] = seen.embedding
    for reduction, stages in seen.features.items():
        for stage, maps in zip(extractor.stages, stages, strict=True):
            norms = torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True).clamp(min=TINY)
            values[map_name(stage.path, reduction)] = (maps / norms).unflatten(0, (count, -1))
    return values


def to_top(
    logits: Float[Tensor, "batch classes"], top_classes: Int[Tensor, "batch top"]
) -> Float[Tensor, "batch top_and_rest"]:
    """The logits of some classes, the largest ones, and behind them the one that each of the others has on average.

    On average: the others' log-sum-exp less the logarithm of their number, so that they weigh together what they weighed. At a
    temperature above 1 they weigh too much, being alike: the more so the fewer logits are kept.
    """
    largest = logits.float().gather(1, top_classes)
    others = logits.float().scatter(1, top_classes, float("-inf"))
    rest = others.logsumexp(dim=1, keepdim=True) - math.log(logits.shape[1] - top_classes.shape[1])
    return torch.cat([largest, rest], dim=1)


def from_top(
    values: Float[Tensor, "batch top_and_rest"], top_classes: Int[Tensor, "batch top"], classes: int
) -> Float[Tensor, "batch classes"]:
    """Logits of all classes, those beyond the largest being alike."""
    return values[:, -1:].repeat(1, classes).scatter_(1, top_classes, values[:, :-1])


def fields_of(
    seen: ModelOutput, extractor: FeatureExtractor, signals: Iterable[str], count: int, top: int | None = None
) -> tuple[Field, ...]:
    """The fields that a run keeps, of the right shapes and types: its losses' `signals`, and the maps of the stages."""
    signals = set(signals)
    values = answers(seen, extractor, count, top)
    if "teacher_logits" not in signals:
        values = {name: value for name, value in values.items() if name not in (LOGITS, TOP_LOGITS, TOP_CLASSES)}
    if "teacher_embedding" not in signals:
        values.pop(EMBEDDING, None)
    return tuple(
        Field(name, tuple(value.shape[1:]), "float16" if value.is_floating_point() else "int32")
        for name, value in values.items()
    )


def check_cacheable(live_terms: Iterable[str]) -> None:
    """Raises InputError, naming them, when losses look at more of the teacher than a cache can keep."""
    names = " and ".join(live_terms)
    if names:
        raise InputError(
            f"{names} must look at the live teacher, at its features whole or at gradients in it, which a cache does not keep: "
            "leave out --cache, or keep to losses on logits, embeddings and maps"
        )


def cacheable(reduction: Reduction | None) -> bool:
    """Whether what is kept of a stage is a map that depends on the image alone."""
    return reduction is not None and not reduction.signals


def map_name(path: str, reduction: Reduction | None) -> str:
    """The name of the field that holds a stage's maps."""
    return f"{path} {reduction}"
