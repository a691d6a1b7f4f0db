"""What decoding loses of some images of a data set: said in a note before anything is trained, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np

from angularkd.data.decode import PILLOW_SILENT, open_image
from angularkd.data.splits import Split
from angularkd.data.stores import EncodedStore, GroupedStore
from angularkd.errors import InputError

INSPECTED = 16
"""Images of a store that are inspected: splits that are drawn share one."""
DARK = 2**14
"""Brightest value of 16-bit images below which a note says how little is left of them at 8 bits."""


def inspect_images(name: str, splits: Mapping[str, Split]) -> tuple[str, ...]:
    """Inspect some images of each split, and say what decoding loses of them; images that cannot be read are passed over.

    Args:
        name: What an error calls the data.
        splits: The splits by name.

    Returns:
        Notes on transparency, which becomes white, and on 16-bit images that are dark throughout.

    Raises:
        InputError: The 16-bit images hold 8 bits, which would become black.
    """
    notes: list[str] = []
    for images in splits.values():
        sharing = [split for split, other in splits.items() if other.store is images.store]
        if splits[sharing[0]] is not images:
            continue
        where = ", ".join(sharing)
        transparent, brightest = _inspect(images)
        if transparent is not None:
            notes.append(f"{where}: images have transparency, which is composited on white, as {transparent} has")
        notes += _darkness(name, where, brightest)
    return tuple(notes)


def _inspect(images: Split) -> tuple[str | None, dict[str, int]]:
    """Return the name of an image with transparency, if there is one, and the brightest value of each 16-bit image by name."""
    transparent: str | None = None
    brightest: dict[str, int] = {}
    for data, image_name in _some_encoded(images):
        with suppress(Exception), PILLOW_SILENT:  # whoever decodes the image complains of it
            image = open_image(data, image_name)
            if image.mode.startswith("I") and not (image.mode == "I" and image.format == "TIFF"):
                brightest[image_name] = int(np.asarray(image).max())
            elif image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                transparent = transparent or image_name
    return transparent, brightest


def _darkness(name: str, split: str, brightest: Mapping[str, int]) -> Iterator[str]:
    highest = max(brightest.values(), default=DARK)
    if 0 < highest < 256:
        raise InputError(
            f"{name}: the 16-bit images of {split} hold values up to {highest} of 65535, as if they had 8 bits, and would be black "
            f"({len(brightest)} of them were read, such as {next(iter(brightest))}); convert them to 8 bits."
        )
    if highest < DARK:
        yield (
            f"{split}: 16-bit images reach {highest} of 65535 in the {len(brightest)} that were read and are scaled by 255 / 65535, "
            f"so {highest // 257 + 1} of 256 levels are left: where they hold fewer bits, multiply them first"
        )


def _some_encoded(images: Split) -> Iterator[tuple[bytes, str]]:
    """Yield some encoded images with their names: evenly spread ones, or those beside the first, where a group is read at once."""
    if not isinstance(images.store, EncodedStore):
        return
    rows = images.rows
    if isinstance(images.store, GroupedStore):
        group = np.searchsorted(images.store.groups.starts, rows, side="right")
        rows = rows[group == group[0]]
    for row in rows[np.linspace(0, len(rows) - 1, min(INSPECTED, len(rows)), dtype=np.int64)]:
        with suppress(InputError):
            yield images.store.encoded(int(row))
