"""What a file of weights says of itself, inside of it or in JSON beside it: enough to use it without the configuration of its run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from angularkd.errors import InputError

Numbers = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
MOST_PIXELS = 16_384
"""Height or width."""
Pixels = tuple[Annotated[int, Field(gt=0, le=MOST_PIXELS)], ...]


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
        channels: what each of the network's channels is made of, as shares of red, green and blue; None where they are these.
        temperature: by which its logits are divided for calibrated probabilities; None where none is fitted.
    """

    model: str
    classes: list[str]
    image_size: list[int]
    mean: list[float]
    std: list[float]
    input_size: tuple[int, int] | None
    torch: str
    channels: list[list[float]] | None = None
    temperature: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the metadata by name."""
        return asdict(self)


class Description(BaseModel):
    """What a description of weights may hold, in the forms that are in use; whatever else is there is left alone.

    Ours (`StudentMetadata`); `{"input": {"mean": ..., "std": ..., "size": ...}}`; and timm's, where `input_size` has three numbers
    and all may lie in `pretrained_cfg`.

    Attributes:
        model, classes, mean, std, channels, temperature: those of `StudentMetadata`.
        image_size: (height, width) of the images they were trained on.
        resize: (height, width) that images are resized to for them.
    """

    model_config = ConfigDict(frozen=True, strict=False)

    model: Annotated[str, Field(strict=True)] | None = None
    classes: tuple[Annotated[str, Field(strict=True)], ...] | None = None
    image_size: Annotated[Pixels, Field(min_length=2, max_length=2)] | None = None
    resize: Annotated[Pixels, Field(min_length=2, max_length=2)] | None = None
    mean: Annotated[Numbers, Field(min_length=1)] | None = None
    std: Annotated[Numbers, Field(min_length=1)] | None = None
    channels: (
        Annotated[tuple[Annotated[Numbers, Field(min_length=3, max_length=3)], ...], Field(min_length=1)] | None
    ) = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


def parse_description(text: str, source: str) -> Description:
    """Return what JSON says of weights.

    Args:
        text: the JSON.
        source: what errors call it.

    Raises:
        InputError: in one line, for text that is no JSON, and for JSON that is not meant so.
    """
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not JSON ({error}): mend or remove it") from None
    if not isinstance(described, dict):
        raise InputError(f"{source} must be a mapping from names to values, not {_short(described)}: mend or remove it")
    try:
        found = Description(**_in_our_form(described))
    except ValidationError as error:
        problem = error.errors()[0]
        name = {"resize": "input_size"}.get(str(problem["loc"][0]), str(problem["loc"][0]))
        raise InputError(
            f"{source} says {name}: {_short(problem['input'])}, which cannot be "
            f"({problem['msg'].removeprefix('Input ').lower()}): mend or remove it"
        ) from None
    if (found.mean is None) != (found.std is None):
        given, absent = ("mean", "std") if found.std is None else ("std", "mean")
        raise InputError(f"{source} says {given}, but no {absent}: give both, or neither")
    return found


def _in_our_form(described: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Description`, from whichever form they come in."""
    nested = [described[key] for key in ("input", "pretrained_cfg") if isinstance(described.get(key), dict)]
    flat = {key: value for part in (described, *nested) for key, value in part.items() if value is not None}
    taken = ("model", "classes", "image_size", "mean", "std", "channels", "temperature")
    found = {key: flat[key] for key in taken if key in flat}
    if not isinstance(found.get("model", ""), str):
        del found["model"]  # of somebody else's making
    for key in ("mean", "std"):
        numbers = [found[key]] if isinstance(found.get(key), int | float) else found.get(key)
        if isinstance(numbers, list) and len(numbers) == 1 and "channels" not in found:
            found[key] = numbers * 3  # one for all channels
    if isinstance(found.get("image_size"), int):
        found["image_size"] = [found["image_size"]] * 2
    sizes = {"input_size": flat.get("input_size"), "size": nested[0].get("size") if nested else None}
    for size in sizes.values():
        if isinstance(size, list) and len(size) == 3:  # channels first
            found["image_size"] = size[1:]
    if isinstance(sizes["size"], list) and len(sizes["size"]) == 2:
        found["image_size"] = sizes["size"]
    if sizes["input_size"] is not None and not (
        isinstance(sizes["input_size"], list) and len(sizes["input_size"]) == 3
    ):
        found["resize"] = sizes["input_size"]
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
