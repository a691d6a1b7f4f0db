"""The help of a command: its options in groups, those that matter first, within the width of the terminal."""

from __future__ import annotations

import inspect
import shutil
import textwrap
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from angularkd.config import LARGEST, POSITIONAL, Config, grouped, shown_first
from angularkd.config import check_file_name as file_name

FLAGS = ("-h", "--help", "--help-all")
INDENT, NARROWEST, WIDEST = 22, 60, 120
"""Columns of a text's left edge, and least and most of a line."""
PLAIN = {int: "N", float: "X", str: "TEXT", bool: ""}
ABOUT = {
    "plan": "Show what distill with the same options would pair, check and spend; nothing is written.",
    "cache fill": "Store the answers that distill with the same options would ask its teacher for.",
}
"""By command, what it does, where its options are those of another."""
WORDS = {"N": "a whole number", "X": "a number", "N [N]": "one whole number or two", "X ...": "one number or more"}
"""What values are, in the words of a message."""
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def help_text(kind: type[Config], command: str, everything: bool, given: Mapping[str, Any] | None = None) -> str:
    """Return the help of a command.

    Args:
        kind: the class of its options.
        command: its name.
        everything: whether all options are shown.
        given: options of a file, in the place of their defaults.
    """
    fields, given = kind.model_fields, given or {}
    required = [name for name, field in fields.items() if field.is_required() and name not in given]
    shown = list(fields) if everything else shown_first(command, fields, required)
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    groups = grouped(shown)
    needed = [name for names in groups.values() for name in names if name in required or name in POSITIONAL]
    needed.sort(key=lambda name: name not in POSITIONAL)
    usage = " ".join(["usage: angularkd", command, *(_head(name, fields[name]) for name in needed), "[OPTIONS]"])
    lines = [
        *_wrapped(usage, width, 7),
        "",
        *_wrapped(ABOUT.get(command, inspect.getdoc(kind) or ""), width, 0),
    ]
    for group, names in groups.items():
        lines += ["", group]
        for name in names:
            lines += _entry(name, fields[name], given.get(name, fields[name].default), name in required, width)
    closing = "--config FILE reads options from YAML; flags lie on top."
    if len(shown) < len(fields):
        closing += f" {len(fields) - len(shown)} more options: angularkd {command} --help-all"
    return "\n".join([*lines, "", *_wrapped(closing, width, 0), ""])


def hint(default: Any, constraints: Sequence[Any]) -> str:
    """Return what the help says of an option's default and range, in brackets; of a default of None or False its text says what it is."""
    bounds = [(word, getattr(constraint, name, None)) for constraint in constraints for name, word in BOUNDS.items()]
    ranges = [f"{word} {bound:,}".removesuffix(".0") for word, bound in bounds if bound not in (None, LARGEST)]
    values = default if isinstance(default, tuple) else (default,)
    unsaid = default is None or default is False or default == ()
    known = [] if unsaid else [f"default: {'yes' if default is True else ' '.join(map(str, values))}"]
    return f"({'; '.join([*known, ', '.join(ranges)]).removesuffix('; ')})" if known or ranges else ""


def expected(field: FieldInfo) -> str:
    """Return what an option takes, in the words of a message."""
    kind = _metavar(field)
    return WORDS.get(kind, f"one of {', '.join(kind.removesuffix(' ...').split('|'))}" if "|" in kind else kind)


def _entry(name: str, field: FieldInfo, default: Any, required: bool, width: int) -> list[str]:
    """Return the lines of an option: its flag, and its text on the right of it, or below where the flag is long."""
    head = f"  {_head(name, field)}"
    text = " ".join((field.description or "").split())
    known = "(required)" if required else hint(default, field.metadata)
    body = textwrap.wrap(f"{text} {known}".strip(), width - INDENT, break_on_hyphens=False)
    if len(head) > INDENT - 2:
        return [*_wrapped(head, width, 6), *(f"{'':{INDENT}}{line}" for line in body)]
    return [f"{head if i == 0 else '':{INDENT}}{line}" for i, line in enumerate(body)]


def _head(name: str, field: FieldInfo) -> str:
    """Return an option as it is written: its flag and what stands for the value, or that alone where it goes by its place."""
    if name in POSITIONAL:
        return f"{_metavar(field)}{' ...' if get_origin(field.annotation) is tuple else ''}"
    no = "[no-]" if field.default is True else ""
    return f"--{no}{name.replace('_', '-')} {_metavar(field)}".rstrip()


def _metavar(field: FieldInfo) -> str:
    """Return what stands for the value: what its configuration says, or the kind of value."""
    given = [one.metavar for one in field.metadata if getattr(one, "metavar", None)]
    if given:
        return given[0]
    if any(getattr(one, "func", None) is file_name for one in field.metadata):
        return "PATH"
    return _kind(field.annotation)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if origin is Annotated:
        is_file = any(getattr(one, "func", None) is file_name for one in arguments[1:])
        return "PATH" if is_file else _kind(arguments[0])
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        parts = list(dict.fromkeys(_kind(one) for one in arguments if one is not type(None)))
        return f"{parts[0]} [{parts[0]}]" if parts[1:] == [f"{parts[0]} {parts[0]}"] else "|".join(parts)
    if origin is tuple:
        return f"{_kind(arguments[0])} ..." if arguments[-1] is Ellipsis else " ".join(map(_kind, arguments))
    return "VALUE"


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)
