"""Weights of a module: loaded strictly, saved with what is needed to use them, identified by a fingerprint."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.files import write_atomically

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema")
"""Keys under which training scripts put the state dict into a checkpoint."""
PREFIX = re.compile(r"^(module\.|model\.|_orig_mod\.)+")
"""What DataParallel, Lightning and torch.compile put before the names."""
REMEDY = "Save the model's state_dict() with safetensors or torch.save"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a PyTorch checkpoint, by the names that the bare module gives them.

    Checkpoints are read with `weights_only=True`: a file that would run code is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} cannot be read: it holds more than tensors, or no checkpoint at all. {REMEDY}"
        ) from None
    except (SafetensorError, EOFError, RuntimeError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is damaged"])[0].rstrip(".")
        raise InputError(f"{path} cannot be read: {reason}. {REMEDY}") from None
    return {PREFIX.sub("", name): value for name, value in state.items()}


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds something else than named tensors.")
    return dict(state)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What is known about a weights file: the metadata inside a safetensors file, else a JSON file of the same name beside it."""
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
    """Write the module's state to a safetensors file, atomically, with `metadata` inside."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary, {"angularkd": json.dumps(metadata)}))


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load strictly. Raises InputError with every missing, unexpected and mis-shaped name; the module is then untouched."""
    problems = mismatches(module, state)
    if problems:
        raise InputError(
            f"{source} does not fit a {type(module).__name__}: {'; '.join(problems)}. "
            "Name the architecture that the weights were trained with"
        )
    module.load_state_dict(dict(state))


def mismatches(module: nn.Module, state: Mapping[str, Tensor], shown: int = 4) -> list[str]:
    """What keeps `state` from loading into `module`, a phrase each for missing, unexpected and mis-shaped names."""
    own = module.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    shapes = [f"{n} ({list(state[n].shape)}, not {list(own[n].shape)})" for n in misshaped(module, state)]
    found = {
        "missing": [name for name in own if name not in state and name not in optional],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    return [
        f"{len(names)} {what}: {', '.join(names[:shown])}{', ...' if len(names) > shown else ''}"
        for what, names in found.items()
        if names
    ]


def misshaped(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """The names that both know but with unequal shapes."""
    own = module.state_dict()
    return [name for name in own if name in state and state[name].shape != own[name].shape]


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of every parameter and buffer, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
