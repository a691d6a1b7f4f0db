"""The table of all losses: what the command line prints and the documentation shows is generated from the rows."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from angularkd.commands.list import show_list
from angularkd.losses import LOSSES, as_markdown, overview, paper_link, paper_name

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_the_documentation_shows_the_generated_table() -> None:
    shown = PAGE.read_text().split("<!-- losses -->\n")[1]
    assert shown == as_markdown(LOSSES), (
        "docs/losses.md is not up to date: between both lines <!-- losses --> belongs what "
        "angularkd.losses.as_markdown(LOSSES) returns"
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_says_where_it_is_from_and_its_usual_weight(name: str) -> None:
    row = LOSSES[name]
    assert row.usual_weight
    if name != "ce":
        assert re.fullmatch(r"\d{4}\.\d{4,5}|https://\S+", row.paper)
        assert paper_link(row.paper).startswith("https://")


def test_what_a_loss_compares_is_read_from_its_row() -> None:
    compares = {row.name: row.compares for row in overview(LOSSES)}
    assert compares["ce"] == "logits and labels"
    assert compares["kd"] == compares["dkd"] == compares["token"] == "logits"
    assert compares["pkt"] == compares["crd"] == "embeddings"
    assert (compares["amd"], compares["sp"], compares["fitnet"]) == ("all stages", "last stage", "middle stage")
    assert compares["ofd"] == "all stages, before the activation"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("pattern", ["*", "a*", "ft"])
def test_the_list_fits_a_terminal(width: int, pattern: str) -> None:
    printed = io.StringIO()
    show_list("losses", pattern, Console(file=printed, width=width))
    lines = printed.getvalue().splitlines()
    assert all(len(line) <= width for line in lines if not line.startswith("https://"))
    for row in overview({name: LOSSES[name] for name in LOSSES if Path(name).match(pattern)}):
        assert paper_name(row.paper) in printed.getvalue(), f"the paper of {row.name} is cut off"
    names = {line.split()[1] for line in lines if line.startswith("│") and line.split()[1] != "│"}
    assert names >= {name for name in LOSSES if Path(name).match(pattern)}
    if pattern == "ft":
        text = " ".join(printed.getvalue().split())
        assert "rate=0.5" in text and "stages=last" in text and "https://arxiv.org/abs/1802.04977" in text
    assert "…" not in printed.getvalue()
