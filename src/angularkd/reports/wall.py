"""A wall of test images with the attention of networks: which images, and what the page needs to draw their maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from angularkd.features import match_sizes, normalise
from angularkd.reports.names import percent, short
from angularkd.reports.observing import Networks, Observed, Outputs

TILES, LEAST_TILES = 18, 8
MAPS_BYTES = 1_800_000
"""Of all maps in a page: of larger ones, fewer images are there."""
LARGEST_MAP = 64
"""Height or width of a map; larger ones are averaged to it."""
SHOWN_PIXELS = 128
PNG_PIXELS = 48
"""Up to this height images are stored as they are, and larger ones as JPEG."""
EPS = 1e-6
"""Of Q = P / (||P|| + eps), as in AMD."""
LONGEST_NAME = 40
FINE = 16
"""Positions from which on a map shows where in the image something is."""


@dataclass(frozen=True)
class Tile:
    """An image on the wall.

    Attributes:
        source: the image as a data: URL.
        pixelated: whether it is so small that its pixels are to be seen.
        truth: the name of its class.
        said: what each network says, by role: a name of a class with its probability, and whether that is right.
        agree: whether all say the same; of a student alone, whether it is right.
        maps: for each stage the attention map Q of each role, float32 in base64.
    """

    source: str
    pixelated: bool
    truth: str
    said: dict[str, tuple[str, bool]]
    agree: bool
    maps: list[tuple[str, ...]]


@dataclass(frozen=True)
class Wall:
    """Images with attention maps.

    Attributes:
        roles: what the networks are called: teacher and student, or runs.
        tiles: the images.
        stages: what each is called, and the height and width of each role's map.
        agreeing, disagreeing: how many of `images` do.
        images: how many were looked at.
    """

    roles: tuple[str, ...]
    tiles: list[Tile]
    stages: list[dict[str, Any]]
    agreeing: int
    disagreeing: int
    images: int

    @property
    def first(self) -> int:
        """Return the stage that is drawn first: the deepest that is more than a few positions."""
        fine = [
            number
            for number, stage in enumerate(self.stages)
            if all(height * width >= FINE for height, width in stage["sizes"])
        ]
        return fine[-1] if fine else 0

    @property
    def maps(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        return {
            "stages": self.stages,
            "maps": [tile.maps for tile in self.tiles],
            "compared": self.roles == ("teacher", "student"),
        }


def build_wall(networks: Networks, observed: Observed) -> Wall | None:
    """Return a wall of images on which the networks agree, and as many on which they do not; None without maps to draw."""
    maps = _attention_maps(observed)
    roles = ("student",) if observed.teacher is None else ("teacher", "student")
    names = [_stage_name(*names) for names in observed.stages]
    return hang(networks, observed, roles, maps, names, _agree(observed), _classifying(observed))


def build_shared_wall(networks: Networks, runs: Mapping[str, Observed]) -> Wall | None:
    """Return a wall of images on which several students agree, and as many on which they do not; None without maps to draw.

    Args:
        networks: of one of the runs, whose images are shown.
        runs: what the networks of each gave for the same images, by the run's label.
    """
    found = {label: observed.student for label, observed in runs.items() if observed.student.maps}
    if not found:
        return None
    counts = {len(outputs.maps) for outputs in found.values()}
    if len(counts) == 1:
        count = counts.pop()
        numbers = [(number,) * len(found) for number in range(count)]
        names = [f"{number + 1} of {count}" for number in range(count)]
    else:
        numbers = [tuple(_deepest_fine(outputs.maps) for outputs in found.values())]
        names = ["deepest"]
    maps = [
        tuple(attention(outputs.maps[number]) for outputs, number in zip(found.values(), each, strict=True))
        for each in numbers
    ]
    first = next(iter(runs.values()))
    answers = [observed.student.predicted for observed in runs.values()]
    agree = np.all([answer == answers[0] for answer in answers], axis=0)
    said = {label: observed.student for label, observed in runs.items()}
    return hang(networks, first, tuple(found), maps, names, agree, said)


def hang(
    networks: Networks,
    observed: Observed,
    roles: tuple[str, ...],
    maps: Sequence[tuple[Tensor, ...]],
    names: Sequence[str],
    agree: Bool[np.ndarray, " images"],
    answers: Mapping[str, Outputs],
) -> Wall | None:
    """Return a wall of some images; None without maps.

    Args:
        networks: whose images are shown.
        observed: of these images, their classes and rows.
        roles: what the networks are called that have maps.
        maps: for each stage the attention maps of each role.
        names: of the stages.
        agree: which images the networks agree on.
        answers: the outputs of each network that tells apart the classes, by role.
    """
    if not maps:
        return None
    chosen = _chosen(agree, _tile_count(maps))
    batches = networks.batches(observed.rows[chosen])
    pixels = [image for batch in batches for image in _as_pixels(batch.images)]
    said = {role: _said(outputs, observed) for role, outputs in answers.items()}
    tiles = [
        Tile(
            _data_url(image),
            max(image.shape[:2]) <= PNG_PIXELS,
            short(observed.classes[observed.labels[place]], LONGEST_NAME),
            {role: texts[place] for role, texts in said.items()},
            bool(agree[place]),
            [tuple(_packed(each, place) for each in stage) for stage in maps],
        )
        for place, image in zip(chosen, pixels, strict=True)
    ]
    stages = [
        {"name": name, "sizes": [tuple(each.shape[1:]) for each in stage]}
        for stage, name in zip(maps, names, strict=True)
    ]
    return Wall(roles, tiles, stages, int(agree.sum()), int((~agree).sum()), len(agree))


def _attention_maps(observed: Observed) -> list[tuple[Tensor, ...]]:
    """Return for each stage the attention maps Q of teacher and student at one size, or of the student alone."""
    if observed.teacher is None:
        return [(attention(student),) for student in observed.student.maps]
    pairs = zip(observed.student.maps, observed.teacher.maps, strict=True)
    both = (match_sizes(student, teacher) for student, teacher in pairs)
    return [(attention(teacher), attention(student)) for student, teacher in both]


def attention(power_maps: Tensor) -> Tensor:
    """Return the attention maps Q of power maps, of LARGEST_MAP positions a side at most."""
    return normalise(_no_larger(power_maps), EPS)


def _deepest_fine(maps: Sequence[Tensor]) -> int:
    """Return the place of the deepest map of FINE positions or more, else of the shallowest."""
    return max((number for number, one in enumerate(maps) if one[0].numel() >= FINE), default=0)


def _no_larger(maps: Tensor) -> Tensor:
    size = min(maps.shape[1], LARGEST_MAP), min(maps.shape[2], LARGEST_MAP)
    return maps if size == tuple(maps.shape[1:]) else F.adaptive_avg_pool2d(maps, size)


def _classifying(observed: Observed) -> dict[str, Outputs]:
    """Return the outputs of the networks that tell apart the data's classes, the teacher's first."""
    both = {"teacher": observed.teacher, "student": observed.student}
    return {role: outputs for role, outputs in both.items() if outputs is not None and outputs.logits is not None}


def _agree(observed: Observed) -> np.ndarray:
    if observed.both_classify:
        assert observed.teacher is not None
        return observed.student.predicted == observed.teacher.predicted
    return observed.student.predicted == observed.labels


def _tile_count(maps: Sequence[tuple[Tensor, ...]]) -> int:
    positions = sum(one[0].numel() for stage in maps for one in stage)
    return int(np.clip(MAPS_BYTES / (positions * 4 * 4 / 3), LEAST_TILES, TILES))


def _chosen(agree: np.ndarray, count: int) -> Int64[np.ndarray, " tiles"]:
    """Return the places of images, half of them disagreeing where there are so many, each kind evenly spread over the images."""
    same, other = np.flatnonzero(agree), np.flatnonzero(~agree)
    others = min(len(other), max(count // 2, count - len(same)))
    return np.concatenate([_spread(other, others), _spread(same, min(count - others, len(same)))])


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    return places[np.linspace(0, len(places) - 1, count).astype(np.int64)] if count else places[:0]


def _said(outputs: Outputs, observed: Observed) -> list[tuple[str, bool]]:
    assert outputs.logits is not None
    probabilities, predicted = torch.softmax(outputs.logits, dim=1).max(dim=1)
    return [
        (f"{short(observed.classes[index], LONGEST_NAME)} ({percent(share, 0)})", index == label)
        for share, index, label in zip(probabilities.tolist(), predicted.tolist(), observed.labels, strict=True)
    ]


def _as_pixels(images: Tensor) -> list[UInt8[np.ndarray, "height width 3"]]:
    return list((images.cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _data_url(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    image, buffer = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    kind = "png" if max(image.size) <= PNG_PIXELS else "jpeg"
    image.save(buffer, format=kind, **({"quality": 85} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _packed(maps: Tensor, place: int) -> str:
    return base64.b64encode(maps[place].numpy().astype("<f4").tobytes()).decode()


def _stage_name(teacher: str, student: str) -> str:
    return short(f"{teacher} → {student}" if teacher and teacher != student else student, 60)
