"""A network under measurement: its time is taken, and its weights and outputs are checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor

from angularkd.errors import InputError
from angularkd.features import ModelOutput
from angularkd.metrics import Extract
from angularkd.models import Classifier
from angularkd.training import predictor


class Watched:
    """A network whose time is taken, and whose weights and outputs are checked.

    Args:
        role: what a message calls it.
        classifier: on the device.
        fabric: the device and the arithmetic.

    Raises:
        InputError: for weights that are not finite.
    """

    def __init__(self, role: str, classifier: Classifier, fabric: Fabric) -> None:
        self.seconds, self.images = 0.0, 0
        self._who = f"the {role} {classifier.spec}"
        self._predict = predictor(fabric, classifier)
        self._device = fabric.device
        self._broken = torch.zeros((), dtype=torch.long, device=fabric.device)
        tensors = (*classifier.module.named_parameters(), *classifier.module.named_buffers())
        broken = [name for name, value in tensors if value.is_floating_point() and not bool(value.isfinite().all())]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise InputError(
                f"the weights of {self._who} are not finite, in {broken[0]}{more}: they are of a training that diverged, or damaged; "
                "give others"
            )

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits for images in 0..1."""
        with self._timed(images):
            logits = self._predict(images)
        return self._checked(logits)

    def extracting(self, extract: Extract) -> Extract:
        """Return a function that extracts as this one does, watched."""

        def watched(images: Tensor) -> ModelOutput:
            with self._timed(images):
                output = extract(images)
            if output.logits is not None:
                self._checked(output.logits)
            return output

        return watched

    def check(self) -> None:
        """Raise InputError where the outputs for some images were not finite."""
        if broken := int(self._broken):
            raise InputError(
                f"the outputs of {self._who} are not finite for {broken:,} of the images, so that nothing can be said of it: check its "
                "normalization and its `input_size`, or evaluate with `precision=32-true`"
            )

    def _checked(self, logits: Tensor) -> Tensor:
        self._broken += (~logits.isfinite()).flatten(1).any(dim=1).sum()
        return logits

    @contextmanager
    def _timed(self, images: Tensor) -> Iterator[None]:
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds += time.perf_counter() - started
        self.images += len(images)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
