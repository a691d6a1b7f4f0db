"""The table of all losses as text: one function for the command line, the documentation and the test that holds them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from angularkd.losses.rows import EMBEDDINGS, FEATURES, LOGITS, Loss
from angularkd.losses.stages import NAMED

UNITS = {
    **dict.fromkeys(FEATURES, "features"),
    **dict.fromkeys(EMBEDDINGS, "embeddings"),
    **dict.fromkeys(LOGITS, "logits"),
}


class Summary(NamedTuple):
    """What a reader of the table learns of a loss: its name, what it is, what it compares, its usual weight and its source."""

    name: str
    summary: str
    compares: str
    usual_weight: str
    paper: str


def overview(table: Mapping[str, Loss]) -> list[Summary]:
    """Return a row for each loss of a table."""
    return [
        Summary(name, row.summary, compared(row), row.usual_weight or "auto", row.paper) for name, row in table.items()
    ]


def compared(row: Loss) -> str:
    """Return what a loss compares, in a few words: the signals, and of features the stages that it acts on by default."""
    if row.on_features:
        stages = row.stages if row.stages in NAMED else f"stages {row.stages}"
        where = {"all": "all stages", "last": "last stage", "middle": "middle stage"}.get(str(stages), str(stages))
        return f"{where}, before the activation" if row.pre_activation else where
    units = dict.fromkeys(UNITS.get(signal, "") for signal in row.inputs)
    compared_units = " and ".join(unit for unit in units if unit) or "logits"
    return f"{compared_units} and labels" if set(row.inputs) == {"student_logits", "labels"} else compared_units


def as_markdown(table: Mapping[str, Loss]) -> str:
    """Return the overview of a table as a table in Markdown, each paper a link."""

    def linked(paper: str) -> str:
        return f"[{paper_name(paper)}]({paper_link(paper)})" if paper else ""

    lines = ["| loss | what it is | compares | usual weight | paper |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | {row.summary} | {row.compares} | {row.usual_weight} | {linked(row.paper)} |"
        for row in overview(table)
    ]
    return "\n".join(lines) + "\n"


def paper_name(paper: str) -> str:
    """Return a paper's number on arXiv as it is, and of a link the site's name."""
    return paper.removeprefix("https://").split("/")[0].split(".")[-2] if "://" in paper else paper


def paper_link(paper: str) -> str:
    """Return where a paper is to be read; empty where a loss has none."""
    return f"https://arxiv.org/abs/{paper}" if paper and "://" not in paper else paper
