"""Read and save the weights of a module, load them strictly, identify them by a fingerprint."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.system.files import write_atomically

AVERAGED = ("state_dict_ema", "model_ema", "ema")
"""Keys under which training scripts put the moving average of the weights, which is what they report the accuracy of."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which they put the state dict."""
PREFIX = re.compile(r"^(module|model|_orig_mod)\.")
"""What DataParallel, Lightning and torch.compile put before the names."""
REMEDY = "Save the model's state_dict() with safetensors or torch.save"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or a PyTorch checkpoint, by their names there.

    Of a checkpoint that holds a moving average of the weights too, the average is taken. Checkpoints are read with
    `weights_only=True`: a file that would run code is refused.

    Raises:
        InputError: for a file that does not exist or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} cannot be read: it holds more than tensors, or no checkpoint at all. {REMEDY}"
        ) from None
    except (SafetensorError, EOFError, RuntimeError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is damaged"])[0].rstrip(".")
        raise InputError(f"{path} cannot be read: {reason}. {REMEDY}") from None


def bare_names(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the state under the bare module's names, without the prefixes of what was wrapped around it in training.

    As many of 'module.', 'model.' and '_orig_mod.' are taken off as make most names those of the module: a module
    whose own names begin so keeps them.

    Args:
        state: tensors by name.
        module: the one that the state is for.
    """
    own = module.state_dict().keys()
    candidates = [dict(state)]
    while any(PREFIX.match(name) for name in candidates[-1]):
        candidates.append({PREFIX.sub("", name): value for name, value in candidates[-1].items()})
    return max(candidates, key=lambda names: len(own & names.keys()))


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    with torch.serialization.safe_globals([argparse.Namespace]):  # the options of the script, often beside the weights
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    unwrapping = True
    while unwrapping and isinstance(state, Mapping):
        inner = [state[key] for key in (*AVERAGED, *WRAPPERS) if isinstance(state.get(key), Mapping)]
        unwrapping = bool(inner)
        state = inner[0] if inner else state
    if isinstance(state, Mapping):
        state = {name: value for name, value in state.items() if name != "n_averaged"}  # counter of AveragedModel
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError("it holds something else than named tensors.")
    return dict(state)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what describes a weights file: metadata inside of safetensors, else a JSON file of the same name beside it.

    Raises:
        InputError: for a file that cannot be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("angularkd")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read: {str(error).rstrip('.')}. {REMEDY}") from None
        if text:
            return dict(json.loads(text))
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        described = json.loads(beside.read_text())
    except ValueError as error:
        raise InputError(f"{beside} is not JSON ({error}): mend or remove it") from None
    return described if isinstance(described, dict) else {}


def save_weights(path: Path, module: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the module's state to a safetensors file, atomically, with `metadata` (which is JSON) inside."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    places = Counter(value.untyped_storage().data_ptr() for value in state.values())
    state = {  # weights that are tied are written once each: the format has no two names for one place
        name: value.clone() if places[value.untyped_storage().data_ptr()] > 1 else value
        for name, value in state.items()
    }
    write_atomically(path, lambda temporary: save_file(state, temporary, {"angularkd": json.dumps(metadata)}))


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load strictly, prefixes of wrappers taken off (`bare_names`).

    Args:
        module: to load into.
        state: tensors by name.
        source: what errors call the state.

    Raises:
        InputError: with every missing, unexpected and mis-shaped name; the module is then untouched.
    """
    state = bare_names(state, module)
    problems = mismatches(module, state)
    if problems:
        raise InputError(
            f"{source} does not fit a {type(module).__name__}: {'; '.join(problems)}. "
            "Name the architecture that the weights were trained with"
        )
    module.load_state_dict(state)


def mismatches(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return what keeps `state` from loading into `module`, a phrase each for missing, unexpected and mis-shaped names.

    All of them are named; a part of the network all of whose names are concerned is named as a whole, 'layer1.*'.
    """
    own = module.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own]
    shapes = [f"{n} ({list(state[n].shape)}, not {list(own[n].shape)})" for n in misshaped(module, state)]
    found = {
        "missing": (len(missing), _by_parts(missing, [name for name in own if name in state])),
        "unexpected": (len(unexpected), _by_parts(unexpected, [name for name in state if name in own])),
        "of another shape": (len(shapes), shapes),
    }
    return [f"{count} {what}: {', '.join(names)}" for what, (count, names) in found.items() if count]


def _by_parts(names: list[str], others: list[str]) -> list[str]:
    """Return the names, those of a part of the network in which none of `others` lies as one: 'part.*'."""
    parts = []
    for name in names:
        pieces = name.split(".")
        prefixes = [".".join(pieces[:depth]) + "." for depth in range(1, len(pieces))]
        whole = next((p for p in prefixes if not any(other.startswith(p) for other in others)), None)
        alone = whole is None or sum(other.startswith(whole) for other in names) == 1
        parts.append(name if alone else f"{whole}*")
    return list(dict.fromkeys(parts))


def misshaped(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the names that both have, but with unequal shapes."""
    own = module.state_dict()
    return [name for name in own if name in state and state[name].shape != own[name].shape]


def fingerprint(module: nn.Module) -> str:
    """Return SHA-256 over the names, types, shapes and bytes of every parameter and buffer, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
