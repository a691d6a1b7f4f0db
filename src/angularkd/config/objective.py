"""An objective as text, NAME=WEIGHT,OPTION=VALUE,... for each loss, as the command line and config.yaml have it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from angularkd.errors import InputError, short_repr
from angularkd.system.plain_yaml import read_yaml

AUTO = "auto"
"""What stands for a weight that is found before the first step."""


def parse_losses(texts: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Return what texts NAME=WEIGHT,OPTION=VALUE,... say: a mapping from a name to a weight, or to a weight with options.

    Values are YAML: 2, true, cosine, [4, 2, 1].
    """
    losses: dict[str, Any] = {}
    for text in texts:
        head, *rest = re.split(r",(?=\w+=)(?![^\[]*\])", text)
        name, _, weight = head.partition("=")
        if not weight and re.fullmatch(r"\w+", name):
            raise InputError(f"'{name}' has no weight: write {name}=auto, or a number, as in {name}=1")
        if not name or not weight or "=" in weight or re.search(r",(?![^\[]*\])", weight):
            raise InputError(
                f"must be NAME=WEIGHT or NAME=WEIGHT,OPTION=VALUE, for example kd=0.9,temperature=4 or amd=auto, not '{text}'"
            )
        if name in losses:
            raise InputError(f"the loss '{name}' is given twice: give it one weight")
        options: dict[str, Any] = {}
        for key, _, value in (option.partition("=") for option in rest):
            if key in options or key == "weight":
                raise InputError(f"the loss '{name}' is given its {key} twice: give it one")
            options[key] = _read_value(value)
        losses[name] = {"weight": _read_value(weight), **options} if options else _read_value(weight)
    return losses


def format_losses(losses: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts that `parse_losses` reads back as this mapping."""
    texts = []
    for name, value in losses.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = options.pop("weight", None)
        if weight is None:
            raise InputError(f"loss '{name}' has no weight: write {name}: {{weight: 1, ...}}")
        written = {
            key: _write_value(f"{key} of loss '{name}'", value) for key, value in {"weight": weight, **options}.items()
        }
        texts.append(",".join(f"{name if key == 'weight' else key}={text}" for key, text in written.items()))
    return tuple(texts)


def with_weights(losses: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    """Return an objective whose weights of `auto` are the numbers given, by loss; their `share` has done its work and goes."""
    found: dict[str, Any] = {}
    for name, value in losses.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        if name in weights and options.get("weight") == AUTO:
            options = {
                "weight": weights[name],
                **{key: option for key, option in options.items() if key not in ("weight", "share")},
            }
            value = options if len(options) > 1 else weights[name]
        found[name] = value
    return found


def stored_weights(losses: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights that a stored objective has for losses that are `auto` in another and otherwise equal."""
    found = {}
    for name, value in stored.items():
        weight = value.get("weight") if isinstance(value, Mapping) else value
        if isinstance(weight, int | float) and name in losses and with_weights(losses, {name: weight})[name] == value:
            found[name] = float(weight)
    return found


def _write_value(what: str, value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise InputError(
            f"{what} must be a number, a word, true, false, null or a list of these, got {short_repr(value)}"
        ) from None


def _read_value(text: str) -> Any:
    """Return a number as Python reads it (1e4 too, which YAML takes for a word), else what YAML reads."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return text
