"""The fields of a teacher's cache: how a part of an answer is stored as numbers of 16 or 8 bits, and read again.

A row of float16 whose largest value is beyond float16 is stored divided by a power of two, its scale, so that it keeps float16's 11
bits. A row of uint8 holds a map, which is nowhere negative and nowhere above 1, as

    code = round(255 * sqrt(value / scale))        scale = 2 ** (-k / 8), the least such that is no smaller than the row's largest value

so that a value is off by at most scale / 255, and less where it is small: a square root spends its steps where maps have most of
their values. Beside the values of a row stand its mark, 0 for a row that is not there, else 1 + the exponent of its scale, or 1 + k,
and its checksum.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from angularkd.errors import InputError

Stored = Literal["float16", "int32", "uint8"]
"""The types of numbers that are stored."""
ENDINGS = {"float16": "f16", "int32": "i32", "uint8": "u8"}
"""Of files, by the type of their numbers."""
INFINITE = 0x7C00
"""The exponent's bits of a float16, all set where it is infinite or no number."""
LARGEST_EXPONENT = 15
"""Of 2, below which scaled values stay."""
LARGEST_MARK = 114
"""The mark of a row of the largest numbers that float32 holds."""
LARGEST_CODE = 255
STEPS_AN_OCTAVE = 8
"""Of the scales of maps in uint8, which are at least 2 ** (-113 / 8): the largest value of a map of 128 x 128 is 140 times that."""
ODD = 2_654_435_769
"""The golden ratio's share of 2**32: its multiples are spread evenly over the numbers of 32 bits."""


@dataclass(frozen=True)
class Field:
    """One part of the teacher's answer to an image.

    Attributes:
        name: its name.
        shape: of one sample.
        dtype: the type it is stored in.
        limit: above the largest of whole numbers; None for any.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Stored = "float16"
    limit: int | None = None

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one sample."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @property
    def ending(self) -> str:
        """Return the ending of its file's name."""
        return ENDINGS[self.dtype]

    @property
    def file(self) -> str:
        """Return its file's name without the ending, different for different fields."""
        readable = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.name)[:60]
        code = (self.dtype,) if self.dtype == "uint8" else ()  # beside which the same maps may be stored in float16
        return f"{readable}-{digest(self.name, self.shape, *code)[:8]}"

    def packed(self, values: Tensor, indices: Int[Tensor, " batch"]) -> tuple[np.ndarray, np.ndarray]:
        """Return values [batch, *shape] on the host as they are stored, and the mark of each row.

        Args:
            values: of some samples.
            indices: of the samples, for the message.

        Raises:
            InputError: for values that are not finite, and negative ones where they are stored in uint8.
        """
        marks = np.ones(len(values), dtype=np.uint8)
        if self.dtype == "int32":
            return values.to(torch.int32).numpy(), marks
        values = values.float()
        largest = values.abs().flatten(1).amax(dim=1)
        if not bool(largest.isfinite().all()):
            image = int(indices[int((~largest.isfinite()).nonzero()[0, 0])])
            raise InputError(
                f"the teacher gives no finite {self.name} for training image {image}, so that no cache holds it and no student learns "
                "from it: check the teacher's weights, and `teacher_normalization`"
            )
        if self.dtype == "uint8":
            return self._coded(values, largest)
        rounded = values.half()
        beyond = rounded.flatten(1).isinf().any(dim=1)
        if bool(beyond.any()):
            exponents = torch.where(beyond, torch.frexp(largest).exponent - LARGEST_EXPONENT, 0)
            rounded = torch.ldexp(values, -self._across(exponents)).half()
            marks += exponents.to(torch.uint8).numpy()
        return rounded.numpy(), marks

    def unpacked(self, stored: Tensor, marks: np.ndarray, device: torch.device) -> Tensor:
        """Return stored values [batch, *shape] on a device, as float32, or int64 where they are whole."""
        if device.type == "cuda":
            stored = stored.pin_memory()  # so that the copy does not wait for the device
        on_device = stored.to(device, non_blocking=True)
        if self.dtype == "int32":
            return on_device.long()
        exponents = torch.from_numpy(marks.astype(np.int32) - 1)
        if self.dtype == "uint8":
            scales = torch.exp2(-exponents.double() / STEPS_AN_OCTAVE).float() / LARGEST_CODE**2
            return on_device.float().square_().mul_(self._across(scales).to(device))
        values = on_device.float()
        return values if not bool(exponents.any()) else torch.ldexp(values, self._across(exponents).to(device))

    def damage(self, stored: np.ndarray) -> str | None:
        """Return what is wrong with stored values that `packed` cannot have returned, or None."""
        if self.dtype == "float16":
            return "values are not finite" if (stored.view(np.uint16) & INFINITE == INFINITE).any() else None
        if self.dtype == "uint8":
            return None
        outside = self.limit is not None and ((stored < 0) | (stored >= self.limit)).any()
        return "it names classes that the teacher has not" if outside else None

    def checksums(self, stored: np.ndarray, marks: np.ndarray) -> np.ndarray:
        """Return a number of 32 bits for each row of stored values [batch, *shape] and its mark.

        It is the sum of the values' bits, each times an odd number of its place, modulo 2**32: a row with one value changed has
        another for certain, and any other row with a probability of 1 - 2**-32.
        """
        rows = np.ascontiguousarray(stored).reshape(len(stored), -1)
        word = next(
            np.dtype(kind) for kind in ("uint32", "uint16", "uint8") if self.row_bytes % np.dtype(kind).itemsize == 0
        )
        bits = rows.view(word).astype(np.uint32, copy=False)
        sums: np.ndarray = bits @ _odd_numbers(bits.shape[1]) + marks.astype(np.uint32) * np.uint32(ODD)
        return sums

    def _coded(self, values: Tensor, largest: Float[Tensor, " batch"]) -> tuple[np.ndarray, np.ndarray]:
        """Return maps [batch, *shape] in 8 bits, and the mark of each row."""
        if bool((values < 0).any()):
            raise InputError(
                f"{self.name} has negative values, which 8 bits do not hold: leave out `cache_maps`, or use float16"
            )
        steps = torch.floor(-STEPS_AN_OCTAVE * torch.log2(largest.double())).clamp(0, LARGEST_MARK - 1)
        shares = values / self._across(torch.exp2(-steps / STEPS_AN_OCTAVE).float())
        codes = (shares.sqrt() * LARGEST_CODE).round().clamp(max=LARGEST_CODE)
        return codes.to(torch.uint8).numpy(), (1 + steps).to(torch.uint8).numpy()

    def _across(self, rows: Tensor) -> Tensor:
        """Return a number a row so that it meets the values of its sample."""
        return rows.view(-1, *[1] * len(self.shape))


@lru_cache
def _odd_numbers(count: int) -> np.ndarray:
    return np.arange(2, count + 2, dtype=np.uint32) * np.uint32(ODD) | np.uint32(1)


def digest(*parts: Any) -> str:
    """Return a digest of values by what they are printed as."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
