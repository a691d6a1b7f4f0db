"""The dry forwards of a command: a network that is built again is not run again."""

from __future__ import annotations

from torch import Tensor

from angularkd.features import Trace, trace
from angularkd.models.classifier import Classifier
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
