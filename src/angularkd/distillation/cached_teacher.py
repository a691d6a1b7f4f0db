"""A teacher that answers from its cache on disk, and runs its network only for images that are not in it yet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.distillation.cache_fields import Field
from angularkd.distillation.teacher import LiveTeacher, Request
from angularkd.distillation.teacher_cache import About, TeacherCache
from angularkd.errors import InputError
from angularkd.features import Head, ModelOutput, PreActivation, Trace
from angularkd.losses import Term
from angularkd.types import Reduction

LOGITS, TOP_LOGITS, TOP_CLASSES, EMBEDDING = "logits", "top logits", "top classes", "embedding"
LEAST_NORM = 1e-12
"""Least norm by which a map is divided."""


class CachedTeacher:
    """A teacher that answers for sample i in view v from a cache, where that answer is stored already.

    Stored are the logits, the embedding, and the maps of the stages, each map divided by its own norm, which no loss on maps
    uses: P / ||P||_F fits into float16 whatever the size of P, and into 8 bits. All are rounded as they are stored, also when they
    are first computed, so that a run gets the same numbers whether the cache was warm or not.

    Answers of a cache in float32 (`about.precision`) are computed in it whatever the student computes in.

    Where an answer of a batch is missing, the network runs for the whole batch, so that it always gets one shape. Batches
    without indices or view are answered by the network.

    Args:
        live: the teacher whose answers are stored.
        folder: the folder of caches.
        about: what the answers depend on; it names the cache in the folder.
        top_logits: how many of the largest logits are stored, the others only by the sum of their probabilities; None for all.
        maps: the type in which maps are stored.
    """

    def __init__(
        self,
        live: LiveTeacher,
        folder: Path,
        about: About,
        top_logits: int | None = None,
        maps: Literal["float16", "uint8"] = "float16",
    ) -> None:
        self.live = live
        self.folder = folder
        self.about = about
        self.top_logits = top_logits
        self.maps: Literal["float16", "uint8"] = maps
        self._request = Request()
        self._cache: TeacherCache | None = None

    @property
    def module(self) -> nn.Module:
        """Return the frozen network."""
        return self.live.module

    @property
    def cache(self) -> TeacherCache:
        """Return the cache that `prepare` has opened."""
        assert self._cache is not None, "prepare() comes first"
        return self._cache

    def trace(self, images: Float[Tensor, "batch 3 height width"]) -> Trace:
        """Return the trace of the network."""
        return self.live.trace(images)

    def head_weight(self, head: Head) -> Float[Tensor, "classes dim"] | None:
        """Return the weight of the classification layer, its rows mapped to the data's classes."""
        return self.live.head_weight(head)

    def prepare(self, request: Request) -> None:
        """Open the cache of what the request names; its files are made when the first answer is stored.

        Raises:
            InputError: when a loss needs more of the teacher than a cache stores, or none needs the teacher; for damaged
                files, and a disk without room.
        """
        if not any(signal.startswith("teacher") for signal in request.signals):
            raise InputError("no loss of this objective uses the teacher: there is nothing to store, leave out `cache`")
        live_losses = uncacheable(request.reductions)
        if live_losses:
            raise InputError(
                f"{' and '.join(live_losses)} must use the live teacher, its whole features or gradients in it, which a cache does "
                "not store: leave out `cache`, or use losses on logits, embeddings and maps"
            )
        self.live.prepare(request)
        self._request = request
        if request.example is not None:
            self.live.trace(request.example)  # which says how many classes there are
        fields = fields_of(request, self.live.classes, self.top_logits, self.maps)
        self._cache = TeacherCache(self.folder, self.about, fields)

    def __call__(
        self,
        images: Float[Tensor, "batch 3 height width"],
        indices: Int[Tensor, " batch"] | None = None,
        view: int | None = None,
    ) -> ModelOutput:
        """Return the stored answers to these samples in this view, after having the network give those that are missing."""
        if indices is None or view is None:
            return self._asked(images)
        self.fill(images, indices, view)
        return self._output(self.cache.read(view, indices, images.device))

    def fill(self, images: Float[Tensor, "batch 3 height width"], indices: Int[Tensor, " batch"], view: int) -> int:
        """Store the answers to a batch that are missing.

        Returns:
            How many were missing.
        """
        missing = self.cache.missing(view, indices).nonzero()[:, 0]
        if len(missing):
            values = self._answers(self._asked(images), len(images))
            here = missing.to(images.device)
            new = {field.name: values[field.name].index_select(0, here) for field in self.cache.fields}
            self.cache.write(view, indices.cpu()[missing], new)
        return len(missing)

    def live_answers(
        self, images: Float[Tensor, "batch 3 height width"], stored: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what the network gives for images now, in full precision, to be compared with what is stored of them.

        Args:
            images: [batch, 3, height, width] in 0..1.
            stored: their stored answers; of the logits those of the stored classes are given.
        """
        return self._answers(self._asked(images), len(images), stored.get(TOP_CLASSES))

    def compile(self, **options: Any) -> None:
        """Compile the network's forward, for images that are not in the cache yet."""
        self.live.compile(**options)

    def uncompile(self) -> None:
        """Run the network as it is written again."""
        self.live.uncompile()

    def close(self) -> None:
        """Remove every hook from the network, and let other processes fill the cache."""
        self.live.close()
        if self._cache is not None:
            self._cache.close()

    def _asked(self, images: Float[Tensor, "batch 3 height width"]) -> ModelOutput:
        """Return what the network gives, in the precision that the cache is of."""
        if self.about.precision != "32-true":
            return self.live(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.live(images)

    def _answers(
        self, output: ModelOutput, count: int, top_classes: Int[Tensor, "batch top"] | None = None
    ) -> dict[str, Tensor]:
        """Return all that can be stored of an output for `count` images, by the field's name: [count, *shape] each."""
        values: dict[str, Tensor] = {}
        if output.logits is not None:
            values[LOGITS] = output.logits
            if self.top_logits is not None and self.top_logits < self.live.classes:
                top = output.logits.float().topk(self.top_logits, dim=1).indices if top_classes is None else top_classes
                values = {TOP_LOGITS: to_top(output.logits, top), TOP_CLASSES: top}
        if output.embedding is not None:
            values[EMBEDDING] = output.embedding
        for reduction, stages in output.features.items():
            for stage, maps in zip(self._request.stages, stages, strict=True):
                norms = torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
                values[map_name(stage.name, reduction)] = (maps / norms).unflatten(0, (count, -1))
        return values

    def _output(self, values: Mapping[str, Tensor]) -> ModelOutput:
        logits = values.get(LOGITS)
        if logits is None and TOP_LOGITS in values:
            logits = from_top(values[TOP_LOGITS], values[TOP_CLASSES], self.live.classes)
        features = {
            reduction: [values[map_name(stage.name, reduction)].flatten(0, -3) for stage in self._request.stages]
            for reduction in dict.fromkeys(self._request.reductions.values())
        }
        return ModelOutput(logits, features, values.get(EMBEDDING))


def fields_of(
    request: Request, classes: int, top_logits: int | None = None, stored_maps: Literal["float16", "uint8"] = "float16"
) -> tuple[Field, ...]:
    """Return the fields that a cache stores for a request.

    Args:
        request: what the losses need of the teacher.
        classes: how many logits it gives, once mapped.
        top_logits: how many of them are stored; None for all.
        stored_maps: the type in which maps are stored.
    """
    fields = []
    if "teacher_logits" in request.signals:
        if top_logits is not None and top_logits < classes:
            fields += [Field(TOP_LOGITS, (top_logits + 1,)), Field(TOP_CLASSES, (top_logits,), "int32", classes)]
        else:
            fields.append(Field(LOGITS, (classes,)))
    if "teacher_embedding" in request.signals and request.head is not None:
        fields.append(Field(EMBEDDING, (request.head.dim,)))
    for reduction in dict.fromkeys(request.reductions.values()):
        assert reduction is not None
        for stage in request.stages:
            shape = stage.shape if reduction.source == "features" else stage.shape[1:]
            maps = reduction(torch.zeros(1, *shape)).shape
            fields.append(Field(map_name(stage.name, reduction), tuple(maps), stored_maps))
    return tuple(fields)


def to_top(
    logits: Float[Tensor, "batch classes"], top_classes: Int[Tensor, "batch top"]
) -> Float[Tensor, "batch top_and_rest"]:
    """Return the logits of some classes, and last the one logit that all other classes share.

    It is log(mean(exp(logits of the others))), so that the others' probabilities sum to what they did at temperature 1. At a
    temperature above 1 they weigh too much, being alike: the more so the fewer logits are stored.
    """
    largest = logits.float().gather(1, top_classes)
    others = logits.float().scatter(1, top_classes, float("-inf"))
    rest = others.logsumexp(dim=1, keepdim=True) - math.log(logits.shape[1] - top_classes.shape[1])
    return torch.cat([largest, rest], dim=1)


def from_top(
    values: Float[Tensor, "batch top_and_rest"], top_classes: Int[Tensor, "batch top"], classes: int
) -> Float[Tensor, "batch classes"]:
    """Return logits of all classes, those beyond the largest being alike."""
    return values[:, -1:].repeat(1, classes).scatter_(1, top_classes, values[:, :-1])


def storable(terms: Iterable[Term]) -> bool:
    """Say whether a cache can answer for the teacher in an objective: some loss asks it, and none needs more than a cache stores."""
    terms = tuple(terms)
    on_features = {term.name: term for term in terms if term.row.on_features}
    forms = {
        name: None if term.row.built_for or term.row.pre_activation else getattr(term.build(None), "reduction", None)
        for name, term in on_features.items()
    }
    asked = any(signal.startswith("teacher") for term in terms for signal in term.signals)
    return asked and not uncacheable(forms)


def uncacheable(reductions: Mapping[str, Reduction | None]) -> tuple[str, ...]:
    """Return the names of losses that need more of a stage than a map that depends on the image alone."""
    whole = (None, PreActivation())
    return tuple(name for name, reduction in reductions.items() if reduction in whole or reduction.signals)


def map_name(stage: str, reduction: Reduction | None) -> str:
    """Return the name of the field that holds a stage's maps."""
    return f"{stage} {reduction}"
