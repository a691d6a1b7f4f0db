"""The signature of an exported file: what it takes and gives, stored in its metadata."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from angularkd.errors import InputError

KEY = "angularkd"
"""Under which the metadata lies in a file."""
Side = Annotated[int, Field(gt=0)]


class Signature(BaseModel):
    """What an exported file takes and gives; whatever else its metadata holds is left alone.

    Attributes:
        classes: names in the order of the outputs.
        image_size: (height, width) of the images in pixels.
        dtype: float32 for images in 0..1, uint8 for those in 0..255.
        layout: order of the images' axes.
        output: what is returned, [batch, classes].
        temperature: by which logits are divided for calibrated probabilities, which those that a file gives are; 1 where none is known.
    """

    model_config = ConfigDict(frozen=True)

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    image_size: tuple[Side, Side]
    dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    output: Literal["logits", "probabilities"] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Return images in 0..1 in the form that the file takes."""
        if self.dtype == "uint8":
            images = (images * 255).round().to(torch.uint8)
        return images.permute(0, 2, 3, 1).contiguous() if self.layout == "nhwc" else images.contiguous()

    def probabilities(
        self, outputs: Float[Tensor, "batch classes"], calibrated: bool = True
    ) -> Float[Tensor, "batch classes"]:
        """Return the probability of each class for what the file returned, calibrated or as the network gave it."""
        logits, divided_by = outputs.float(), 1.0
        if self.output == "probabilities":
            if calibrated or self.temperature == 1:
                return logits
            logits, divided_by = logits.log(), self.temperature
        wanted = self.temperature if calibrated else 1.0
        return (logits * (divided_by / wanted)).softmax(dim=1)


def parse_signature(text: str | None, file: object) -> tuple[Signature, dict[str, Any]]:
    """Return the signature in the metadata of an exported file, and all of the metadata.

    Args:
        text: the metadata, JSON; None or empty where there is none.
        file: that it lies in, for errors.

    Raises:
        InputError: where there is no such metadata, or it is not meant so.
    """
    if not text:
        raise InputError(
            f"{file} was not exported by angularkd, so that nothing says its classes: export the run again"
        )
    try:
        metadata = json.loads(text)
        return Signature.model_validate(metadata), metadata
    except (ValueError, RecursionError, ValidationError):
        raise InputError(f"the metadata in {file} cannot be read: export the run again") from None
