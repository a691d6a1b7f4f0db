"""Tables that fit: beside each other where the console is wide enough, else each row as a block of lines; nothing is ever cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

NARROWEST_WORDS = 14
"""Columns that a text is given at least before a table is stacked."""
FRAME = 3
"""Characters around a column: a rule and two spaces."""


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    words: Collection[str] = (),
) -> None:
    """Print a table, or, where the console is too narrow for it, each row as a block of lines.

    Args:
        console: where it is printed.
        columns: their headings.
        rows: a text for each column.
        title: a line above.
        words: the columns of text, which may take several lines. All others are numbers, which stand on the right, or names: they are
            never broken.
    """
    if sum(map(len, columns)) and _least_width(columns, rows, words) > console.width:
        _print_stacked(console, columns, rows, title)
        return
    table = Table(
        *(
            Column(
                heading,
                justify="right" if heading not in words and _are_numbers([row[number] for row in rows]) else "left",
                no_wrap=heading not in words,
                overflow="fold",
            )
            for number, heading in enumerate(columns)
        ),
        title=title or None,
        title_justify="left",
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(text[:1].isdigit() or text[:1] in ("", "-", "+") for text in texts)


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]) -> int:
    """Return the width of the table whose texts are as narrow as they may be."""
    widths = []
    for number, heading in enumerate(columns):
        lines = [line for row in (columns, *rows) for line in row[number].splitlines()]
        whole = max(map(cell_len, lines), default=0)
        widths.append(min(whole, NARROWEST_WORDS) if heading in words else whole)
    return sum(width + FRAME for width in widths) + 1


def _print_stacked(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print each row as its first text, and below that a line for each other column."""
    if title:
        console.print(title, highlight=False, soft_wrap=True)
    for row in rows:
        console.print(f"{columns[0]} {row[0]}".strip(), highlight=False, soft_wrap=True)
        lines = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
        for heading, text in zip(columns[1:], row[1:], strict=True):
            if text:
                lines.add_row(f"  {heading}", text)
        console.print(lines)
