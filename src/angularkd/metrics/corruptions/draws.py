"""What is random in a corruption, drawn for each image on its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float64]
"""RGB in 0..1, [batch, 3, height, width]."""
SEED = 0


class Draws:
    """Random numbers of each image of a batch, which depend on the image alone and not on the others of the batch.

    Args:
        name: of the corruption.
        severity: of it, 1..5.
        indices: the row of each image in its split.
    """

    def __init__(self, name: str, severity: int, indices: Iterable[int]) -> None:
        which = zlib.crc32(name.encode())
        self.generators = [np.random.default_rng((SEED, which, severity, int(index))) for index in indices]

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        """Return uniform numbers, [batch, *shape]."""
        return np.stack([generator.uniform(low, high, shape) for generator in self.generators])

    def integers(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        """Return whole numbers from `low` to `high` - 1, [batch, *shape]."""
        return np.stack([generator.integers(low, high, shape) for generator in self.generators])

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """Return normal numbers of variance 1, [batch, *shape]."""
        return np.stack([generator.standard_normal(shape) for generator in self.generators])

    def poisson(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Poisson numbers of these rates, [batch, ...]."""
        pairs = zip(self.generators, rates, strict=True)
        return np.stack([generator.poisson(rate).astype(np.float64) for generator, rate in pairs])
