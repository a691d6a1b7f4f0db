"""Random numbers that are a function of names and integers: the same on every machine, library version and process.

A generator is never shared and never advanced across calls: each use names what it draws for, as in
`random_words(50_000, "crop", seed, view)`, so nothing depends on what was drawn before. The words are the raw output of
PCG64, which NumPy guarantees for good (it does not guarantee the distributions built on top of it, nor does PyTorch).
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float64, Int64, UInt64


def mix(*parts: int | str) -> int:
    """Mix several parts into one 128-bit seed: BLAKE2b of their text.

    Change one part and the seed is unrelated. With `seed + view`, (seed 0, view 1) and (seed 1, view 0) would agree.
    """
    text = repr(tuple(part if isinstance(part, str) else int(part) for part in parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def random_words(count: int, *parts: int | str) -> UInt64[np.ndarray, " count"]:
    """Return `count` independent 64-bit words named by `parts`; a longer call begins with the words of a shorter one."""
    return np.asarray(np.random.PCG64(mix(*parts)).random_raw(count), dtype=np.uint64)


def uniforms(count: int, *parts: int | str) -> Float64[np.ndarray, " count"]:
    """Return `count` numbers in [0, 1), by the upper 53 bits of `random_words`."""
    return (random_words(count, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *parts: int | str) -> Int64[np.ndarray, " count"]:
    """Return the integers 0 .. count - 1 in random order: sorted by `random_words`."""
    return np.argsort(random_words(count, *parts), kind="stable").astype(np.int64)
