"""A network that a caller in Python passes as it is: a `torch.nn.Module`, for which a text stands in the configuration."""

from __future__ import annotations

import hashlib

from torch import nn

from angularkd.errors import InputError
from angularkd.models.classifier import Classifier
from angularkd.models.counting import Count
from angularkd.models.libraries.file import is_file_spec
from angularkd.models.weights import fingerprint

PREFIX = "module:"
DIGITS = 12
"""Of hashes."""


def module_spec(module: nn.Module) -> str:
    """Return what stands for a module: module:WEIGHTS:LAYERS:CLASS, hashes of its state and of its layers, and its class's name."""
    kind = type(module)
    name = f"{kind.__module__}.{kind.__qualname__}".replace("<locals>.", "")
    shapes = [(key, list(getattr(value, "shape", ()))) for key, value in module.state_dict().items()]
    layers = hashlib.sha256(f"{name} {module!r} {shapes}".encode()).hexdigest()
    return f"{PREFIX}{fingerprint(module)[:DIGITS]}:{layers[:DIGITS]}:{name}"


def is_module_spec(spec: str) -> bool:
    """Return whether a text stands for a module."""
    return spec.startswith(PREFIX)


def is_own(spec: str) -> bool:
    """Return whether a SPEC is a network of the user's own, of whose weights nobody else knows: a file's callable, or a module."""
    return is_file_spec(spec) or is_module_spec(spec)


def same_network(one: str, other: str) -> bool:
    """Return whether two texts stand for modules of one class and equal layers, whatever their weights."""
    return is_module_spec(one) and is_module_spec(other) and one.split(":")[2:] == other.split(":")[2:]


def from_module(spec: str, module: nn.Module | None, num_classes: int, count_outputs: Count) -> Classifier:
    """Return the module as a classifier.

    Args:
        spec: what stands for it.
        module: None where the caller has passed none.
        num_classes: of the data, for a module that shows nowhere how many it tells apart.
        count_outputs: counts them by running it.

    Raises:
        InputError: without the module.
    """
    if module is None:
        name = spec.split(":")[-1]
        raise InputError(
            f"'{name}' is a module that was passed in Python, which no SPEC builds again: pass such a module to the function of "
            "angularkd of the same name as this command, with what was trained (student.safetensors) as its weights"
        )
    count = getattr(module, "num_classes", None)
    if not isinstance(count, int):
        count = count_outputs(spec, module)
    note = (
        f"{spec.split(':')[-1]} is a module of Python, named in config.yaml by its class and a hash of its weights: "
        "to repeat, resume or evaluate, pass it again"
    )
    return Classifier(spec, module, num_classes if count is None else count, notes=(note,))
