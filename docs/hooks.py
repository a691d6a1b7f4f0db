"""Pages of the documentation site that are made: the reference of the commands, from their own help."""

from __future__ import annotations

import contextlib
import io

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from angularkd import cli


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the commands."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


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
