"""From flags and a YAML file to a configuration: tyro reads the flags, the configuration checks what they say."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro

from angularkd.cli.helping import FLAGS, expected, help_text
from angularkd.config import LONGEST_TEXT, Config
from angularkd.errors import InputError, nearest, short_repr

C = TypeVar("C", bound=Config)

REQUIRED = "\0"
"""Stands for what is not given and has no default; no argument of a process can hold it."""

REWORDED = {
    r"\[type=[^\]]*\]|For further information visit \S+": "",
    r"Missing value for argument '(\S+)'\. Expected \d+ values": r"\1 needs a value",
    r"Unrecognized options:": "there is no place for",
}
"""What tyro says, in the words of this command line."""
UNREADABLE = re.compile(r"Error parsing (--[\w-]+): |invalid choice .* for argument '(--[\w-]+)'")
"""How tyro begins to say that a value is not what its flag takes."""
NOT_READ = re.compile(
    r"(?:with base 10|to float): (.*?)\.?$|(?:instantiated from|for arguments:) \[(.*)\]"
    r"|invalid choice (.*?) for argument"
)
"""Where it says what came."""


def parse(kind: type[C], command: str, arguments: list[str]) -> C:
    """Return a configuration from flags, on top of the YAML file that --config names.

    Args:
        kind: the class of the configuration.
        command: its name, for messages.
        arguments: flags and values.

    Raises:
        InputError: for a flag that the command does not have, or a value that cannot be.
    """
    for argument in arguments:
        if len(argument) > LONGEST_TEXT:
            raise InputError(
                f"{short_repr(argument)} has {len(argument):,} characters, and {LONGEST_TEXT:,} are read: shorten it"
            )
        if "\0" in argument:
            raise InputError(f"{short_repr(argument)} holds a NUL character: leave it out")
    arguments, file = _take_config(arguments)
    _check_flags(kind, command, arguments)
    options = kind.load(file) if file is not None else {}
    if asked := [argument for argument in arguments if argument in FLAGS]:
        print(help_text(kind, command, "--help-all" in asked, options), end="")
        raise SystemExit(0)
    if "trust" in options:
        raise InputError(f"{file} gives `trust`, which whoever runs a command gives it, not a file: leave it out there")
    losses = options.pop("loss", ())
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(_flags(kind, options), prog=f"angularkd {command}", args=arguments)
    except SystemExit:
        raise InputError(f"{_in_one_line(kind, complaint.getvalue())} See: angularkd {command} --help") from None
    given = {name: value for name, value in vars(parsed).items() if value not in (REQUIRED, (REQUIRED,))}
    if losses and not given["loss"]:
        given["loss"] = losses
    _check_code(options, given, arguments, file)
    try:
        return kind.from_options(**given)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')}. See: angularkd {command} --help") from None


def _check_code(
    options: Mapping[str, Any], given: Mapping[str, Any], arguments: Sequence[str], file: str | None
) -> None:
    """Raise InputError for a model whose code a file would have run: FILE.py:CALLABLE that neither its flag nor `trust` names."""
    typed = {argument.partition("=")[0] for argument in arguments}
    trusted = {Path(name).resolve() for name in given.get("trust", ())}
    for name in ("model", "teacher", "student"):
        spec = options.get(name)
        if spec is None or ".py:" not in spec or f"--{name}" in typed:
            continue
        code = spec.rpartition(":")[0]
        if Path(code).resolve() not in trusted:
            raise InputError(
                f"{file} names the {name} {spec}, and to open it would run the code in {Path(code).resolve()}: read that file, then "
                f"allow it with `trust={code}`"
            )


def _flags(kind: type[Config], given: Mapping[str, Any]) -> type:
    """Return a class that tyro makes flags of: the fields of a configuration, unchecked, with what is given as defaults."""
    hints = get_type_hints(kind, include_extras=True)
    fields = []
    for name, field in kind.model_fields.items():
        required = field.is_required() and name not in given
        missing = (REQUIRED,) if get_origin(field.annotation) is tuple else REQUIRED
        default = missing if required else given.get(name, field.default)
        fields.append((name, hints[name], dataclasses.field(default=default)))
    return dataclasses.make_dataclass(kind.__name__, fields)


def _check_flags(kind: type[Config], command: str, arguments: Sequence[str]) -> None:
    """Raise InputError for a flag that the command does not have, with the nearest that it has."""
    flags = set(FLAGS)
    for name, field in kind.model_fields.items():
        flag = name.replace("_", "-")
        flags |= {f"--{flag}", f"--no-{flag}"} if field.annotation is bool else {f"--{flag}"}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if argument.startswith("--") and flag not in flags:
            known = nearest(flag, flags)
            raise InputError(f"angularkd {command} has no flag {flag}.{known} See: angularkd {command} --help")


def _in_one_line(kind: type[Config], complaint: str) -> str:
    """Return the first sentence of a boxed complaint, its lines up to the rule without the frame, in words of our own."""
    lines = [line.strip("│╭╮╰╯─|+ ") for line in complaint.splitlines()]
    lines = ["" if set(line) == {"-"} else line for line in lines]  # rules, where the encoding knows no others
    body = list(itertools.dropwhile(lambda line: not line, lines[1:]))
    text = " ".join(body[: next((i for i, line in enumerate(body) if not line), len(body))])
    flag, value = UNREADABLE.search(text), NOT_READ.search(text)
    if flag is not None and value is not None:
        name = next(filter(None, flag.groups()))
        field = kind.model_fields[name.removeprefix("--").replace("-", "_")]
        return f"{name} is {expected(field)}, not {next(filter(None, value.groups()))}."
    for words, ours in REWORDED.items():
        text = re.sub(words, ours, text)
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text}."


def _take_config(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return the arguments without --config FILE, and the file."""
    for i, argument in enumerate(arguments):
        if argument == "--config":
            if i + 1 == len(arguments):
                raise InputError("--config needs a YAML file")
            return _no_other(arguments[:i] + arguments[i + 2 :]), arguments[i + 1]
        if argument.startswith("--config="):
            return _no_other(arguments[:i] + arguments[i + 1 :]), argument.removeprefix("--config=")
    return arguments, None


def _no_other(arguments: list[str]) -> list[str]:
    if any(argument.partition("=")[0] == "--config" for argument in arguments):
        raise InputError("--config is given twice: options are read from one file")
    return arguments
