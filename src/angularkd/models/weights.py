"""Read and save the weights of a module, load them strictly, identify them by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from angularkd.errors import InputError
from angularkd.models.checkpoints import metadata_in, stored_in
from angularkd.models.names import renamings
from angularkd.runs import Description, parse_description
from angularkd.system.files import write_atomically


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, by their names there: of a checkpoint that holds several mappings, of the likeliest.

    Raises:
        InputError: for a file that does not exist or cannot be read.
    """
    return {name: value for name, value in stored_in(path)[0].state.items() if isinstance(value, Tensor)}


def bare_names(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return the state under the module's own names, without what was put before or into them in training.

    Args:
        state: tensors by name.
        module: the one that the state is for.
    """
    return renamings(state, module.state_dict())[0].state


def read_description(path: str | Path) -> Description:
    """Return what describes a weights file: metadata inside of safetensors, else a JSON file of the same name beside it.

    Raises:
        InputError: for a file that cannot be read, and for what cannot be.
    """
    path = Path(path)
    text = metadata_in(path)
    if text:
        return parse_description(text, f"the metadata in {path}")
    beside = path.with_suffix(".json")
    if not beside.is_file() or beside == path:
        return Description()
    return parse_description(_text_of(beside), str(beside))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata inside of a safetensors file by name, as `save_weights` got it; empty where there is none.

    Raises:
        InputError: as `read_description` does.
    """
    text = metadata_in(Path(path))
    read_description(path)
    return dict(json.loads(text)) if text else {}


def save_weights(path: Path, module: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the module's state to a safetensors file, atomically, with `metadata` (which is JSON) inside."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    places = Counter(value.untyped_storage().data_ptr() for value in state.values())
    state = {  # weights that are tied are written once each: the format has no two names for one place
        name: value.clone() if places[value.untyped_storage().data_ptr()] > 1 else value
        for name, value in state.items()
    }
    write_atomically(path, lambda temporary: save_file(state, temporary, {"angularkd": json.dumps(metadata)}))


def load_into(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load strictly, prefixes of wrappers taken off (`bare_names`).

    Args:
        module: to load into.
        state: tensors by name.
        source: what errors call the state.

    Raises:
        InputError: with every missing, unexpected and mis-shaped name, and for values that cannot be weights; the module is then
            untouched.
    """
    state = bare_names(state, module)
    problems = mismatches(module, state)
    if problems:
        raise InputError(
            f"{source} does not fit a {type(module).__name__}: {'; '.join(problems)}. "
            "Name the architecture that the weights were trained with"
        )
    _check_values(module, state, source)
    try:
        module.load_state_dict(state)
    except Exception as error:  # a module may have a way of its own to load what it keeps beside its weights
        raise InputError(f"{source} does not fit a {type(module).__name__}: {_first_line(error)}") from None


def mismatches(module: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Return what keeps `state` from loading into `module`, a phrase each for missing, unexpected and mis-shaped names.

    All of them are named; a part of the network all of whose names are concerned is named as a whole, 'layer1.*'.
    """
    own = module.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own]
    shapes = [f"{n} ({list(state[n].shape)}, not {list(own[n].shape)})" for n in misshaped(module, state)]
    kinds = [name for name in own if name in state and isinstance(own[name], Tensor) != isinstance(state[name], Tensor)]
    found = {
        "missing": (len(missing), _by_parts(missing, [name for name in own if name in state])),
        "unexpected": (len(unexpected), _by_parts(unexpected, [name for name in state if name in own])),
        "of another shape": (len(shapes), shapes),
        "of another kind": (len(kinds), kinds),
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


def misshaped(module: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Return the names of tensors that both have, but with unequal shapes; what has no shape yet takes any."""
    return [
        name
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
        and not is_lazy(value)
        and isinstance(state.get(name), Tensor)
        and state[name].shape != value.shape
    ]


def fingerprint(module: nn.Module) -> str:
    """Return SHA-256 over the names, types, shapes and bytes of every parameter and buffer, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        for part in _parts_of(value):
            if isinstance(part, Tensor):
                digest.update(f"{name} {part.dtype} {list(part.shape)};".encode())
                digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            else:
                digest.update(f"{name} {part};".encode())
    return digest.hexdigest()


def _parts_of(value: Any) -> Iterable[Any]:
    """Yield the tensors and texts that a value of a state dict consists of: quantised modules keep more than plain tensors."""
    if isinstance(value, Tensor) and value.is_quantized:
        yield from (str(value.qscheme()), value.int_repr(), value.dequantize())
    elif isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (str(key), *_parts_of(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts_of(inner)
    else:
        yield repr(value)


def _check_values(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Raise InputError for values that a module would take without a word, and that are no weights of it."""
    own = module.state_dict()
    learned = {name for name, _ in module.named_parameters()}
    for name, value in state.items():
        if not isinstance(value, Tensor) or is_lazy(own[name]) or own[name].is_quantized:
            continue
        reason = None
        if value.is_quantized or value.layout != torch.strided or value.is_meta:
            reason = "is quantised, sparse or without values"
        elif own[name].is_floating_point() and not value.is_floating_point():
            reason = f"holds {_plain(value.dtype)}, not floating point numbers"
        elif (name in learned or name.endswith("running_var")) and not torch.isfinite(value.float()).all():
            reason = "holds numbers that are not finite"
        elif name.endswith("running_var") and bool((value < 0).any()):
            reason = "holds variances below 0"
        if reason is not None:
            raise InputError(f"{source} cannot be the weights of a {type(module).__name__}: {name} {reason}")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): mend or remove it") from None
