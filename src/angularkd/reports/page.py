"""A report as one HTML file: sections of figures, tables and text, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from angularkd.reports.drawing import Drawn
from angularkd.reports.names import clean
from angularkd.reports.outcome import Outcome
from angularkd.reports.wall import Wall


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: their headings; the first names the rows.
        rows: as long as `columns`.
        title: above it.
        words: the places of columns that hold words rather than numbers, beside the first.
    """

    columns: list[str]
    rows: list[list[str]]
    title: str = ""
    words: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Code:
    """Text to copy: a command, a configuration.

    Attributes:
        title: above it.
        text: as it is.
        folded: whether it is unfolded by a click.
    """

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page. What is empty is left out.

    Attributes:
        name: of its place in the page.
        title: its heading.
        text: below it.
        figures, tables, codes: in this order.
        notes: a list of sentences.
        wall: images with attention maps.
        margin: of the wall's slider: AMD's options margin, additive_margin, cosine_margin and scale.
    """

    name: str
    title: str
    text: str = ""
    figures: list[Drawn] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    codes: list[Code] = field(default_factory=list)
    wall: Wall | None = None
    margin: dict[str, float] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Return whether there is nothing in it."""
        return not (self.figures or self.tables or self.notes or self.codes or self.wall)


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: what it is about.
        lead: a line below the title.
        outcome: what came out.
        sections: in order.
        made: with what, at the foot.
    """

    title: str
    lead: str
    outcome: Outcome
    sections: list[Section]
    made: str


def render(page: Page) -> str:
    """Return a page as HTML. Texts are escaped, and a browser is told to load and run nothing but what stands in it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("angularkd.reports") / "template"
    template, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.finalize = lambda value: (
        clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    )
    environment.filters["marked"] = _marked
    environment.filters["data"] = _data
    environment.filters["raw"] = Markup
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(template).render(page=page, style=style, script=script, digest=digest)


def _marked(text: str) -> Any:
    """Return a text with what stands in backquotes marked as code."""
    from markupsafe import Markup, escape

    parts = re.split("`", clean(text))
    if len(parts) % 2 == 0:
        return escape(text)
    pieces = [Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)]
    return Markup("").join(pieces)


def _data(value: Any) -> Any:
    """Return a value as JSON that can stand in a script element, whatever texts it holds."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
