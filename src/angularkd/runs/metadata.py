"""What a student's file says of itself: enough to use it without the configuration of its run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StudentMetadata:
    """The metadata of a student's weights, stored inside of their file.

    Attributes:
        model: the SPEC that builds the bare network.
        classes: names by class index.
        image_size: (height, width) of the images it was trained on.
        mean, std: of its normalisation, a number a channel.
        input_size: (height, width) that images are resized to for it; None where they are not.
        torch: version that trained it.
    """

    model: str
    classes: list[str]
    image_size: list[int]
    mean: list[float]
    std: list[float]
    input_size: tuple[int, int] | None
    torch: str

    def as_dict(self) -> dict[str, Any]:
        """Return the metadata by name."""
        return asdict(self)
