"""The network that is exported: preprocessing before the student, its logits or probabilities behind it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from angularkd.errors import InputError
from angularkd.inference import Signature
from angularkd.models import Classifier, predict

LARGEST_BATCH = 4096


class Deployable(nn.Module):
    """A student with all that is done to images before and after it, as its signature says.

    Args:
        student: fitted to its images, in evaluation mode, on the CPU.
        signature: what it is to take and give.
    """

    def __init__(self, student: Classifier, signature: Signature) -> None:
        super().__init__()
        self.student = student
        self.module = student.module
        self.signature = signature
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits or probabilities [batch, classes] of images in the signature's form."""
        if self.signature.layout == "nhwc":
            images = images.permute(0, 3, 1, 2)
        if self.signature.dtype == "uint8":
            images = images.float() / 255
        logits: Tensor = predict(self.module, images, self.student.preprocessing)
        if self.signature.output == "logits":
            return logits
        return (logits.float() / self.signature.temperature).softmax(dim=1)

    def example(self, batch: int = 2) -> Tensor:
        """Return images to trace it with."""
        height, width = self.signature.image_size
        generator = torch.Generator().manual_seed(0)
        return self.signature.encode(torch.rand(batch, 3, height, width, generator=generator))

    def program(self) -> ExportedProgram:
        """Return its computation for any number of images.

        Raises:
            InputError: for a network that torch.export cannot trace, or only for one number of images.
        """
        shapes = {"images": {0: Dim("batch", min=1, max=LARGEST_BATCH)}}
        with foreign_code("torch.export cannot trace the student for any number of images"), torch.no_grad():
            return torch.export.export(self, (self.example(),), dynamic_shapes=shapes, strict=False)


@contextmanager
def foreign_code(complaint: str) -> Iterator[None]:
    """Silence a library's warnings inside, and turn whatever it raises into one line that begins with `complaint`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join((lines or [""])[0].split())
        raise InputError(
            f"{complaint} ({type(error).__name__}: {reason[:300]}): export another `format`, safetensors holds any student"
        ) from error
