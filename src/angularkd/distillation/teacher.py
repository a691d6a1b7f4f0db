"""A teacher: whatever answers images with what the student's losses compare, and the one that runs its network each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from angularkd.distillation.networks import check_images, check_network, still, trace_network
from angularkd.features import FeatureExtractor, Head, ModelOutput, Stage, Trace
from angularkd.models import ClassMapping, predict
from angularkd.system.compiling import CompiledForOneShape
from angularkd.types import Reduction

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Request:
    """What a student's losses need of its teacher.

    Attributes:
        stages: the teacher's paired stages.
        reductions: for each loss on features, by its name, the map of the stages that it compares; None for whole features.
        head: the classification layer whose input is the embedding, where a loss compares embeddings.
        signals: names of the signals that the losses use.
        example: images of the shape that will come, for a teacher that was not traced yet.
    """

    stages: tuple[Stage, ...] = ()
    reductions: Mapping[str, Reduction | None] = field(default_factory=dict)
    head: Head | None = None
    signals: frozenset[str] = frozenset()
    example: Tensor | None = None


@runtime_checkable
class Teacher(Protocol):
    """What a `Distiller` holds; it never asks whether answers are computed or read from a disk.

    A teacher is deliberately no `nn.Module`: its holder does not list it among its parameters, put it into training mode, or save it.
    """

    @property
    def module(self) -> nn.Module:
        """Return the frozen network, in evaluation mode."""
        ...

    def trace(self, images: Float[Tensor, "batch 3 height width"]) -> Trace:
        """Return the trace of the network on such images: its stages, its head, its classes."""
        ...

    def head_weight(self, head: Head) -> Float[Tensor, "classes dim"] | None:
        """Return the weight of the classification layer, a row for each class of the data; None where it has none."""
        ...

    def prepare(self, request: Request) -> None:
        """Answer with what the request names from now on. Raise InputError where that is not possible."""
        ...

    def __call__(
        self,
        images: Float[Tensor, "batch 3 height width"],
        indices: Int[Tensor, " batch"] | None = None,
        view: int | None = None,
    ) -> ModelOutput:
        """Return what the request names of a batch of images, without gradients.

        Args:
            images: values in 0..1.
            indices: rows of the images in the training split, on the host.
            view: the number of their augmentation. Only (index, view) names an image for good.
        """
        ...

    def compile(self, **options: Any) -> None:
        """Compile the network's forward by `torch.compile` for the shape of images that come next."""
        ...

    def uncompile(self) -> None:
        """Run the network as it is written again."""
        ...

    def close(self) -> None:
        """Remove every hook from the network."""
        ...


class LiveTeacher:
    """A teacher that runs its frozen network for every batch.

    Args:
        module: from images to logits [batch, classes]; it is put into evaluation mode.
        transform: applied to images in 0..1 first.
        mapping: from the network's classes to the data's, where these are others; losses get the mapped logits.
        traced: what one forward of the module on transformed images showed, where it was traced before.
    """

    def __init__(
        self,
        module: nn.Module,
        transform: Transform | None = None,
        mapping: ClassMapping | None = None,
        traced: Trace | None = None,
    ) -> None:
        check_network(module, "teacher")
        self.module = module.eval()
        self.transform = transform
        self.mapping = mapping
        self._traced = traced
        self._extractor = FeatureExtractor(module, (), (), forward=self._predict)
        self._compiled: CompiledForOneShape[ModelOutput] | None = None
        self._parts = tuple(module.modules())
        self._has_run = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that a copy, or a file, gets: it runs as it is written."""
        return {**vars(self), "_compiled": None}

    @property
    def classes(self) -> int:
        """Return how many logits it gives, once mapped; 0 before its network was traced."""
        if self.mapping is not None:
            return len(self.mapping)
        shape = self._traced.output_shape if self._traced is not None else None
        return shape[-1] if shape else 0

    def trace(self, images: Float[Tensor, "batch 3 height width"]) -> Trace:
        """Return the trace of the network on such images; it is made once."""
        if self._traced is None:
            images = self.transform(images) if self.transform is not None else images
            self._traced = trace_network(self.module, images, "teacher")
        return self._traced

    def head_weight(self, head: Head) -> Float[Tensor, "classes dim"] | None:
        """Return the weight of the classification layer, its rows mapped to the data's classes."""
        weight = getattr(self.module.get_submodule(head.path), "weight", None)
        if weight is None:
            return None
        rows: Tensor = weight.detach().flatten(1)
        return rows if self.mapping is None else self.mapping.head_weight(rows)

    def prepare(self, request: Request) -> None:
        """Extract what the request names from now on."""
        self._extractor.close()
        reductions = tuple(dict.fromkeys(request.reductions.values()))
        self._extractor = FeatureExtractor(self.module, request.stages, reductions, request.head, forward=self._predict)

    def __call__(
        self,
        images: Float[Tensor, "batch 3 height width"],
        indices: Int[Tensor, " batch"] | None = None,
        view: int | None = None,
    ) -> ModelOutput:
        """Run the network; a live teacher has no use for indices and view.

        Raises:
            InputError: at the first call, where the network changes its buffers in evaluation mode.
        """
        if any(part.training for part in self._parts):  # somebody changed its mode since, or that of a part
            self.module.eval()
        if self._has_run:
            return self._run(images)
        try:
            with still(self.module, "teacher"):
                output = self._run(images)
        except RuntimeError:
            check_images(self.module, images, "teacher")
            raise
        self._has_run = True
        return output

    def compile(self, **options: Any) -> None:
        """Compile the forward, its weights becoming constants of the code: after a change of its weights, compile again."""
        self._compiled = CompiledForOneShape(self._extract, frozen=True, **options)

    def uncompile(self) -> None:
        """Run the network as it is written again."""
        self._compiled = None

    def close(self) -> None:
        """Remove every hook from the network."""
        self._extractor.close()

    def _run(self, images: Tensor) -> ModelOutput:
        with torch.no_grad():
            if self._compiled is None:
                return self._extractor(images)
            with self._extractor.attached():
                return self._compiled(images)

    def _extract(self, images: Tensor) -> ModelOutput:
        return self._extractor(images)

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.module, images, self.transform, self.mapping)
