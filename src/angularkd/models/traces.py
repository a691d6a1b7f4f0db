"""The dry forwards of a command: a network that is built again is not run again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from angularkd.features import Trace, trace
from angularkd.models.classifier import Classifier
from angularkd.models.counting import PROBED_SIZES, Count, input_channels, outputs_of
from angularkd.models.preprocessing import Size
from angularkd.models.usable import is_unbuilt


class Refusal(Exception):
    """A model's forward raised: its reason, on one line."""


class Traces:
    """The traces of networks by their SPEC, classes, modules and the size of their images: all that a trace depends on.

    Networks that differ in their weights alone have one trace, so a command that builds a network several times (`distill`, which
    checks a teacher, fits it and distils it) runs it once.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, str, tuple[int, ...]], Trace | Refusal] = {}
        self._counts: dict[tuple[str, str], int | None] = {}

    def counting(self, image_size: Size | None = None) -> Count:
        """Return a function that counts a module's outputs by a dry forward, which is that of its trace where the images are of this size.

        Args:
            image_size: at which a module is tried first; None where nothing is known of the images.
        """
        sizes = [(side, side) for side in PROBED_SIZES]
        tried = tuple(dict.fromkeys(sizes if image_size is None else [image_size, *sizes]))

        def count(spec: str, module: nn.Module) -> int | None:
            module = getattr(module, "_orig_mod", module)  # torch.compile's
            key = (spec, str(module))
            if key not in self._counts:
                self._counts[key] = self._count(spec, module, tried)
            return self._counts[key]

        return count

    def _count(self, spec: str, module: nn.Module, sizes: tuple[Size, ...]) -> int | None:
        if is_unbuilt(module):  # its first images settle its layers
            return None
        for size in sizes:
            images = torch.zeros(1, input_channels(module), *size)
            try:
                found = trace(module, images)
            except Exception:  # it is the user's own code
                continue
            count = outputs_of(found)
            if count is not None:
                self._found[spec, count, str(module), tuple(images.shape[1:])] = found
            return count
        return None

    def of(self, classifier: Classifier, images: Tensor) -> Trace:
        """Return the trace of a classifier's module: that of its twin for images of this size, else that of a dry forward.

        Args:
            classifier: any.
            images: [batch, 3, height, width], preprocessed for it.

        Raises:
            Refusal: when the forward raises, or its twin's has.
        """
        if is_unbuilt(classifier.module):  # the forward gives its layers their shapes
            found = _traced(classifier, images)
            if isinstance(found, Refusal):
                raise found
            return found
        spec = classifier.architecture or classifier.spec
        key = (spec, classifier.num_classes, str(classifier.module), tuple(images.shape[1:]))
        if key not in self._found:
            self._found[key] = _traced(classifier, images)
        found = self._found[key]
        if isinstance(found, Refusal):
            raise Refusal(str(found))
        return found


def _traced(classifier: Classifier, images: Tensor) -> Trace | Refusal:
    try:
        return trace(classifier.module, images)
    except Exception as error:  # the forward may be the user's own
        reason = (str(error).splitlines() or ["no reason given"])[0]
        return Refusal(f"{type(error).__name__}: {reason}")
