"""A model of the user's own: a callable in a Python file, FILE.py:CALLABLE."""

from __future__ import annotations

import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.models.classifier import Classifier


def is_file_spec(spec: str) -> bool:
    """Return whether a SPEC names a callable in a Python file."""
    return ".py:" in spec


def from_file(spec: str, num_classes: int) -> Classifier:
    """Run the file and call the callable, with `num_classes` where it takes them.

    Args:
        spec: FILE.py:CALLABLE.
        num_classes: of the logits that the module shall give. A module whose attribute `num_classes` is 0, as timm's is, has no
            classification layer.

    Raises:
        InputError: where there is no such file or callable, where the user's code raises, and where it returns no module.
    """
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise InputError(f"there is no file {file}: a model of your own is FILE.py:CALLABLE")
    module_spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    _call_user_code(spec, module_spec.loader.exec_module, module)
    build = getattr(module, name, None)
    if not callable(build):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise InputError(
            f"{file} has no callable '{name}'.{nearest(name, public)} It has: {', '.join(public) or 'none'}"
        )
    takes_classes = "num_classes" in inspect.signature(build).parameters
    model = _call_user_code(spec, build, **({"num_classes": num_classes} if takes_classes else {}))
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec} returned a {type(model).__name__}: it must return a torch.nn.Module")
    headless = getattr(model, "num_classes", num_classes) == 0
    return Classifier(spec, model, 0 if headless else num_classes)


def _call_user_code(spec: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Turn whatever the user's own code raises into one line that names the place."""
    try:
        return call(*arguments, **options)
    except Exception as error:
        file = spec.rpartition(":")[0]
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == Path(file).resolve()
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        raise InputError(f"{spec} failed at line {line} of {file}: {type(error).__name__}: {error}") from error
