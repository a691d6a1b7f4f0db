"""What lies in a file of weights: every mapping of names to tensors in it, the likeliest first."""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from angularkd.errors import InputError

AVERAGED = ("state_dict_ema", "model_ema", "ema")
"""Keys under which training scripts put the moving average of the weights, which is what they report the accuracy of."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which they put the state dict."""
INDEX = ".index.json"
"""The ending of a file that says in which other files the tensors of a large model lie, as Hugging Face's libraries write it."""
REMEDY = "Save the model's state_dict() with safetensors or torch.save"
DEEPEST = 6
"""Mappings in each other beyond which no weights are looked for."""


@dataclass(frozen=True)
class Stored:
    """One mapping of a file that holds tensors.

    Attributes:
        keys: under which it lies.
        state: by name; what is no tensor too, which some modules keep beside their weights.
    """

    keys: tuple[str, ...]
    state: dict[str, Any]

    @property
    def place(self) -> str:
        """Return where it lies, as a note says it; empty for the file's own mapping."""
        return ".".join(self.keys)


def stored_in(path: str | Path) -> list[Stored]:
    """Return every mapping in a safetensors file, a PyTorch checkpoint, or the index of several, that holds tensors.

    Moving averages of weights come first, then what lies under the usual keys, then the rest; there is one at least. Checkpoints are
    read with `weights_only=True`: a file that would run code is refused.

    Raises:
        InputError: for a file that does not exist or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    if path.name.endswith(INDEX):
        return [Stored((), _sharded(path))]
    try:
        if path.suffix == ".safetensors":
            return [Stored((), dict(load_file(path)))]
        options = torch.serialization.safe_globals([argparse.Namespace])  # a script's, often beside the weights
        with options, warnings.catch_warnings(action="ignore"):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        found = sorted(_mappings(content, (), ()), key=lambda stored: _rank(stored.keys))
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} cannot be read: it holds more than tensors, or no checkpoint at all. {REMEDY}"
        ) from None
    except Exception as error:  # a damaged file makes its reader raise anything
        reason = (str(error).splitlines() or ["it is damaged"])[0].rstrip(".:")
        raise InputError(f"{path} cannot be read: {reason}. {REMEDY}") from None
    if not found:
        raise InputError(f"{path} cannot be read: it holds something else than named tensors. {REMEDY}")
    return found


def is_usual(stored: Stored) -> bool:
    """Return whether a mapping lies under keys that are meant for the weights that count: then others beside it do not matter."""
    return _rank(stored.keys)[0] < 2


def metadata_in(path: Path) -> str | None:
    """Return the text that angularkd has put into a safetensors file; None where there is none, or it is another file.

    Raises:
        InputError: for a file that cannot be read.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("angularkd")
    except (SafetensorError, OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {str(error).rstrip('.')}. {REMEDY}") from None


def _sharded(index: Path) -> dict[str, Any]:
    """Return the tensors of all files beside an index. Raise InputError for one that cannot be read, or names what is not there."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
        files = {str(file) for _, file in places}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{index} cannot be read: it is no index of weights (weight_map). {REMEDY}") from None
    shards = {file: stored_in(index.parent / file)[0].state for file in sorted(files) if not file.endswith(INDEX)}
    missing = [name for name, file in places if name not in shards.get(file, {})]
    if missing:
        raise InputError(
            f"{index} names tensors that its files do not hold, such as {missing[0]}: get all of its files again"
        )
    return {name: shards[file][name] for name, file in places}


def _mappings(content: Any, keys: tuple[str, ...], around: tuple[int, ...]) -> Iterator[Stored]:
    """Yield the mappings that hold tensors; `around` are those that this one lies in, in which it may not lie again."""
    if not isinstance(content, Mapping) or id(content) in around or len(keys) > DEEPEST:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    inner = {name: value for name, value in named.items() if isinstance(value, Mapping)}
    if any(isinstance(value, Tensor) for value in named.values()):
        yield Stored(keys, named)
    for name, value in inner.items():
        yield from _mappings(value, (*keys, name), (*around, id(content)))


def _rank(keys: tuple[str, ...]) -> tuple[int, int]:
    """Return where a mapping stands among those of its file, by the keys that it lies under."""
    averaged = [AVERAGED.index(key) for key in keys if key in AVERAGED]
    if averaged:
        return 0, averaged[0]
    usual = [WRAPPERS.index(key) for key in keys if key in WRAPPERS]
    return (1, usual[0] if usual else -1) if len(usual) == len(keys) else (2, 0)
