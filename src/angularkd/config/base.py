"""The base of every configuration: typed, frozen, strict, and the same as keyword arguments, flags and YAML."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from angularkd.errors import InputError, nearest

PARAMETER = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")
"""How messages name a parameter, perhaps with a value: `epochs`, `loader=workers`."""


class Config(BaseModel):
    """A set of options that checks itself on construction; `from_options` and `load` say in one line what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Build the configuration from keyword arguments.

        Raises:
            InputError: for an unknown option (with the nearest valid one), or a value that cannot be.
        """
        for name in options:
            if name not in cls.model_fields:
                valid = ", ".join(cls.model_fields)
                raise InputError(
                    f"unknown option '{name}'.{nearest(name, cls.model_fields)} The valid ones are: {valid}"
                )
        try:
            return cls(**{k: str(v) if isinstance(v, PathLike) else v for k, v in options.items()})
        except ValidationError as error:
            raise InputError(describe(error)) from None

    @classmethod
    def load(cls, path: str | Path) -> dict[str, Any]:
        """Read options from a YAML file and check them; flags may still replace them, and give what is missing.

        Returns:
            The options that the file names, by name.

        Raises:
            InputError: for a file that cannot be read or is no mapping, an unknown option, or a value that cannot be.
        """
        try:
            options = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise InputError(f"there is no configuration file {path} to read ({error.strerror})") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(options, dict):
            raise InputError(f"{path} must hold 'option: value' lines, not a {type(options).__name__}")
        for name in options:
            if name not in cls.model_fields:
                raise InputError(
                    f"{path}: unknown key '{name}'.{nearest(str(name), cls.model_fields)} "
                    f"The valid ones are: {', '.join(cls.model_fields)}"
                )
        required = {name: "?" for name, field in cls.model_fields.items() if field.is_required()}
        valid = cls.from_options(**{**required, **options})
        return {name: getattr(valid, name) for name in options}

    def dump(self) -> str:
        """Return the options as YAML that `load` reads back, without the folder of the run, so that it can be repeated."""
        options = self.model_dump(mode="json", exclude={"out", "resume"})
        if "loss" in options:
            options["loss"] = getattr(self, "losses")  # noqa: B009
        return yaml.safe_dump(options, sort_keys=False, allow_unicode=True)


def describe(error: ValidationError) -> str:
    """Say in one line what pydantic found: which option, what is wrong with it, what came."""
    parts = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"][:1])
        if problem["type"] == "missing":
            parts.append(f"the option `{name}` is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = f"{message[0].lower()}{message[1:]}" if message[0] != "`" else message
            parts.append(f"`{name}`: {message}, got {problem['input']!r}" if name else message)
    return "; ".join(dict.fromkeys(parts))


def with_flags(text: str) -> str:
    """Return a message for the command line: parameters in backquotes become flags, `loader=workers` becomes --loader workers."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")

    return PARAMETER.sub(flag, text)
