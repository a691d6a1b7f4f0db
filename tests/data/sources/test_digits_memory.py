"""Digits are drawn at any size that memory has room for, and refused before they are drawn at others."""

from __future__ import annotations

import numpy as np
import pytest

from angularkd import InputError
from angularkd.data.sources import small


def test_digits_that_memory_cannot_hold_are_refused_before_they_are_drawn(monkeypatch) -> None:
    digits = np.zeros((100, 8, 8))
    monkeypatch.setattr(small, "free_memory_bytes", lambda: 2**20)
    assert len(small.render_digits(digits, (16, 16))) == 100
    with pytest.raises(
        InputError, match=r"digits of 16384x16384 pixels take 600\.0 GiB .* give a smaller `image_size`"
    ):
        small.render_digits(digits, (16_384, 16_384))
