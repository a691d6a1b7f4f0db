"""Pages of the documentation site that are made: the README, a notebook, and the reference of the commands, from their own help."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from angularkd import cli

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "first_look.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the figures of the notebook."""
    look, figures = notebook_page(NOTEBOOK)
    pages = {"index.md": start_page(), "first-look.md": look, "commands.md": commands_page()}
    for name, content in {**pages, **figures}.items():
        files.append(File.generated(config, name, content=content))
    return files


def start_page() -> str:
    """Return the page that the site begins with: the README, its links as they are from the folder of the pages."""
    text = (ROOT / "README.md").read_text()
    return text.replace("](docs/", "](").replace(f"](examples/{NOTEBOOK.name})", "](first-look.md)")


def notebook_page(file: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page, and the figures that its outputs show, by name."""
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in json.loads(file.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\(\.\./docs/", "](", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(_fenced("".join(output["text"]).rstrip()))
            elif "image/png" in output.get("data", {}):
                name = f"figures/first-look-{len(figures) + 1}.png"
                figures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![What the cell above draws]({name})")
    parts.insert(1, f"(This page is the notebook `examples/{file.name}`, as it was run.)")
    return "\n\n".join(parts) + "\n", figures


def commands_page() -> str:
    """Return the page: what `angularkd --help` says, and every command's `--help-all`."""
    parts = ["# Commands", _fenced(_output("--help"))]
    for command in cli.COMMANDS:
        parts += [f"## {command}", _fenced(_output(command, "--help-all"))]
    return "\n\n".join(parts) + "\n"


def _output(*arguments: str) -> str:
    """Return what a command prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main(list(arguments))
    return printed.getvalue().strip()


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"
