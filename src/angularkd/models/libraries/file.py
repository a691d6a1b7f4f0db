"""A model of the user's own: a callable in a Python file, FILE.py:CALLABLE."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.models.classifier import Classifier
from angularkd.models.counting import Count

_numbers = itertools.count()


def is_file_spec(spec: str) -> bool:
    """Return whether a SPEC names a callable in a Python file."""
    return ".py:" in spec


def check_trusted(spec: str, named_in: object, trust: Collection[str]) -> None:
    """Check that the code of a model may run that a file names, not the user.

    Args:
        spec: FILE.py:CALLABLE.
        named_in: the file that names it.
        trust: files whose code may run.

    Raises:
        InputError: where its file is none of them.
    """
    file = spec.rpartition(":")[0]
    if Path(file).is_file() and Path(file).resolve() not in {Path(known).resolve() for known in trust}:
        raise InputError(
            f"{named_in} names the model {spec}, and to open it would run the code in {Path(file).resolve()}: read that file, "
            f"then allow it with `trust={file}`"
        )


def from_file(spec: str, num_classes: int, count_outputs: Count) -> Classifier:
    """Run the file and call the callable, with `num_classes` where it takes them.

    Args:
        spec: FILE.py:CALLABLE.
        num_classes: of the logits that the module shall give. A callable that does not take them decides itself how many there are: a
            module whose attribute `num_classes` is 0, as timm's is, has no classification layer.
        count_outputs: counts them by running a module that has no such attribute.

    Raises:
        InputError: where there is no such file or callable, where the user's code raises, and where it returns no module.
    """
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise InputError(f"there is no file {file}: a model of your own is FILE.py:CALLABLE")
    module = _module_of(spec, file)
    build = getattr(module, name, None)
    if not callable(build):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise InputError(
            f"{file} has no callable '{name}'.{nearest(name, public)} It has: {', '.join(public) or 'none'}"
        )
    takes_classes = "num_classes" in _parameters_of(build)
    model = _call_user_code(spec, build, **({"num_classes": num_classes} if takes_classes else {}))
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec} returned a {type(model).__name__}: it must return a torch.nn.Module")
    count = getattr(model, "num_classes", None)
    if not isinstance(count, int):
        count = num_classes if takes_classes else count_outputs(spec, model)
    return Classifier(spec, model, num_classes if count is None else count)


def _module_of(spec: str, file: str) -> ModuleType:
    """Run a file as a module of a name that no other has: dataclasses, pickle and inspect look for it among the loaded ones."""
    name = f"_angularkd_file_{next(_numbers)}_{Path(file).stem}"
    module_spec = importlib.util.spec_from_file_location(name, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        _call_user_code(spec, module_spec.loader.exec_module, module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _parameters_of(build: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(build).parameters
    except (ValueError, TypeError):  # of C
        return ()


def _call_user_code(spec: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Turn whatever the user's own code raises into one line that names the place."""
    try:
        return call(*arguments, **options)
    except (Exception, SystemExit) as error:
        file = spec.rpartition(":")[0]
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == Path(file).resolve()
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        reason = " ".join(str(error).split())
        raise InputError(f"{spec} failed at line {line} of {file}: {type(error).__name__}: {reason}") from error
