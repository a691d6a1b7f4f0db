"""A frozen teacher that answers from its cache, and runs only for the images that are not in it yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.errors import InputError
from angularkd.features import FeatureExtractor, Seen
from angularkd.teacher_cache import Field, TeacherCache
from angularkd.types import Reduction

Answer = Callable[[Tensor], Seen]

LOGITS, EMBEDDING = "logits", "embedding"
TINY = 1e-12
"""Least norm by which a map is divided."""


class CachedTeacher:
    """Answers for sample i in view v as the teacher does, from a cache where that answer is kept already.

    Kept are the logits, the embedding, and the maps of the stages, each map divided by its own norm, which no loss on maps
    looks at: P / ||P||_F fits into float16 whatever the size of P. All are rounded to float16, also when they are first made, so
    that a run sees the same numbers whether the cache was warm or not.

    Args:
        teacher: from images to what it shows, in evaluation mode and without gradients.
        extractor: the teacher's, which says what is kept.
        cache: with the fields of `fields_of`.
    """

    def __init__(self, teacher: Answer, extractor: FeatureExtractor, cache: TeacherCache) -> None:
        self.teacher = teacher
        self.extractor = extractor
        self.cache = cache
        self._wanted = {field.name for field in cache.fields}

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], indices: Int[Tensor, " batch"], view: int
    ) -> Seen:
        missing = self.cache.missing(view, indices)
        if missing.any():
            at = missing.nonzero()[:, 0]
            seen = self.teacher(images.index_select(0, at.to(images.device)))
            self.cache.write(view, indices.cpu()[at], self._values(seen, len(at)))
        return self._seen(self.cache.read(view, indices, images.device))

    def _values(self, seen: Seen, count: int) -> dict[str, Tensor]:
        values = answers(seen, self.extractor, count)
        return {name: values[name] for name in self._wanted}

    def _seen(self, values: dict[str, Tensor]) -> Seen:
        features = {
            reduction: [values[map_name(stage.path, reduction)].flatten(0, -3) for stage in self.extractor.stages]
            for reduction in self.extractor.reductions
        }
        return Seen(values.get(LOGITS), features, values.get(EMBEDDING))


def answers(seen: Seen, extractor: FeatureExtractor, count: int) -> dict[str, Tensor]:
    """All that can be kept of what a teacher showed for `count` images, by the field's name: [count, *shape] each."""
    values = {LOGITS: seen.output}
    if seen.embedding is not None:
        values[EMBEDDING] = seen.embedding
    for reduction, stages in seen.features.items():
        for stage, maps in zip(extractor.stages, stages, strict=True):
            norms = torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True).clamp(min=TINY)
            values[map_name(stage.path, reduction)] = (maps / norms).unflatten(0, (count, -1))
    return values


def fields_of(seen: Seen, extractor: FeatureExtractor, signals: Iterable[str], count: int) -> tuple[Field, ...]:
    """The fields that a run keeps, of the right shapes: its losses' `signals`, and the maps of the extractor's stages.

    Raises InputError when a loss looks at more of the teacher than a cache can keep.
    """
    if not cacheable(extractor.reductions):
        raise InputError(
            "a loss looks at the teacher's features whole, or at gradients in it, which a cache does not keep: "
            "leave out --cache, or keep to losses on logits, embeddings and maps"
        )
    signals = set(signals)
    unused = {
        name for name, signal in ((LOGITS, "teacher_logits"), (EMBEDDING, "teacher_embedding")) if signal not in signals
    }
    values = answers(seen, extractor, count)
    return tuple(Field(name, tuple(value.shape[1:])) for name, value in values.items() if name not in unused)


def cacheable(reductions: Sequence[Reduction | None]) -> bool:
    """Whether all that is kept of the stages are maps that depend on the image alone."""
    return all(reduction is not None and not reduction.signals for reduction in reductions)


def map_name(path: str, reduction: Reduction | None) -> str:
    """The name of the field that holds a stage's maps."""
    return f"{path} {reduction}"
