"""Tables at any width: whole beside each other where they fit, else stacked; no number is ever cut."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from angularkd.commands.layout import print_table

COLUMNS = ("loss", "what it is", "weight", "share of the first gradient")
ROWS = [
    ("amd", "attention on a hypersphere, with a margin", "12345.678", "89.1%"),
    ("kd", "soft labels", "0.9", "10.9%"),
]


def printed(width: int) -> str:
    file = StringIO()
    print_table(Console(file=file, width=width), COLUMNS, ROWS, title="Losses", words=("what it is",))
    return file.getvalue()


@pytest.mark.parametrize("width", [45, 60, 80, 120])
def test_every_number_is_there_at_every_width(width) -> None:
    text = printed(width)
    assert "…" not in text
    for row in ROWS:
        for cell in (row[0], *row[2:]):
            assert cell in text
    assert max(map(len, text.splitlines())) <= width


def test_a_table_that_fits_has_a_frame_and_one_that_does_not_is_stacked() -> None:
    assert "┃" in printed(120) and "Losses" in printed(120)
    narrow = printed(60).splitlines()
    assert narrow[0] == "Losses" and narrow[1] == "loss amd"
    assert ["weight", "12345.678"] in [line.split() for line in narrow]
    assert "┃" not in printed(60)
