"""The base of every configuration: typed, frozen, strict, and the same as keyword arguments, flags and YAML."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from angularkd.errors import InputError, nearest, short_repr
from angularkd.system.plain_yaml import read_yaml_file, write_yaml

PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
"""How messages name a parameter, perhaps with a value: `epochs`, `loader=workers`."""
POSITIONAL = ("data", "image", "run", "runs", "images", "folder", "file")
"""Options that the command line takes by their place: DATA, IMAGE, RUN, RUNS, IMAGES, FILE."""

MOST_EPOCHS = 100_000
MOST_IMAGES = 1_000_000
"""Of a batch; and so many views and logits of a cache."""
MOST_PIXELS = 16_384
"""Height or width."""
MOST_WORKERS = 1_024
LARGEST = 1e9
"""Of the numbers that are no counts: rates, norms and decays."""
LONGEST_TEXT = 4_096
"""Characters, which is as long as a path can be."""
LONGEST_NAME_BYTES, LONGEST_PATH_BYTES = 255, 3_800
"""Of a file or a folder, in all usual file systems; and with the folders around it, leaving room for the files of a run."""


def check_file_name(path: str) -> str:
    """Return the path. Raise ValueError, which pydantic turns into a message, for a name in it that no file system takes."""
    if not path:
        raise ValueError("is empty: name a file or a folder")
    names = [len(name.encode(errors="surrogateescape")) for name in path.split("/")]
    if max(names) > LONGEST_NAME_BYTES or sum(names) + len(names) > LONGEST_PATH_BYTES:
        raise ValueError(
            f"names of files have at most {LONGEST_NAME_BYTES} bytes, and {LONGEST_PATH_BYTES:,} with all their folders: "
            "give shorter ones"
        )
    return path


FileName = Annotated[str, AfterValidator(check_file_name)]
"""A file, a folder, or what may be one."""


class Config(BaseModel):
    """A set of options that checks itself on construction; `from_options` and `load` say in one line what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, options: Any) -> Any:
        """Refuse what pydantic would convert, or pass on, to mean something else than it looks like."""
        for name, value in options.items() if isinstance(options, dict) else ():
            for part in value if isinstance(value, list | tuple) else (value,):
                field = cls.model_fields.get(name)
                if isinstance(part, bool) and field is not None and field.annotation is not bool:
                    raise ValueError(f"`{name}` is neither true nor false, got {value!r}: give its value")
                if isinstance(part, str) and "\0" in part:
                    raise ValueError(f"`{name}` holds a NUL character, got {short_repr(value)}: leave it out")
                if isinstance(part, str) and len(part) > LONGEST_TEXT:
                    raise ValueError(
                        f"`{name}` has {len(part):,} characters, at most {LONGEST_TEXT:,} are read: shorten it"
                    )
        if not isinstance(options, dict):
            return options
        return {
            name: (value,) if isinstance(value, str) and cls._takes_several_texts(name) else value
            for name, value in options.items()
        }

    @classmethod
    def _takes_several_texts(cls, name: str) -> bool:
        """Return whether an option is a list of texts, of which one may stand alone: `augment: flip`."""
        field = cls.model_fields.get(name)
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        return any(
            get_origin(kind) is tuple and get_args(kind)[1:] == (...,) and get_args(kind)[0] not in (int, float)
            for kind in kinds
        )

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Build the configuration from keyword arguments.

        Raises:
            InputError: for an unknown option (with the nearest valid one), or a value that cannot be.
        """
        for name in options:
            if name not in cls.model_fields:
                valid = ", ".join(sorted(cls.model_fields))
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
            options = read_yaml_file(Path(path)) or {}
        except (OSError, ValueError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise InputError(f"{path} is not YAML: it is no text in UTF-8") from None
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"there is no configuration file {path} to read ({reason})") from None
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not YAML as options are written: {' '.join(str(error).split())}") from None
        if not isinstance(options, dict):
            raise InputError(f"{path} must hold 'option: value' lines, not a {type(options).__name__}")
        for name in options:
            if name not in cls.model_fields:
                raise InputError(
                    f"{path}: unknown key '{name}'.{nearest(str(name), cls.model_fields)} "
                    f"The valid ones are: {', '.join(sorted(cls.model_fields))}"
                )
        required = {name: "?" for name, field in cls.model_fields.items() if field.is_required()}
        valid = cls.from_options(**{**required, **options})
        return {name: getattr(valid, name) for name in options}

    def dump(self) -> str:
        """Return the options as YAML that `load` reads back, without the folder of the run, so that it can be repeated."""
        options = self.model_dump(mode="json", exclude={"out", "resume", "trust", "report", "tensorboard"})
        if "loss" in options:
            options["loss"] = getattr(self, "losses")  # noqa: B009
        return write_yaml(options)


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
            said = isinstance(problem.get("ctx", {}).get("error"), InputError)  # what came, too
            came = "" if said else f", got {short_repr(problem['input'])}"
            parts.append(f"`{name}`: {message}{came}" if name and f"`{name}`" not in message else message)
    return "; ".join(dict.fromkeys(parts))


def with_flags(text: str) -> str:
    """Return a message for the command line: backquoted parameters become flags, `loader=workers` becomes --loader workers, `data` DATA."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        written = name.upper() if name in POSITIONAL else f"--{name.replace('_', '-')}"
        return written + (f" {value}" if value else "")

    return PARAMETER.sub(flag, text)
