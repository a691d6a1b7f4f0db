"""What a module must be to be used here, whoever built it: made so where that is plain, refused in one line where it is not."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from angularkd.errors import InputError


def made_usable(module: nn.Module, spec: str, converts: bool = True) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module to use, and notes on what was changed: a compiled one is taken as it was written, half precision widened.

    Args:
        module: of any kind.
        spec: names it in errors.
        converts: whether its weights may be converted; not those of a module that is somebody else's.

    Raises:
        InputError: for weights without values, for those of another precision that may not be converted, and for modules
            that bear neither hooks nor modes.
    """
    module = getattr(module, "_orig_mod", module)  # torch.compile's; a run compiles its own steps
    if _exported(module):
        raise InputError(
            f"{spec} gives an exported graph, which has neither stages nor an evaluation mode: give the module that it was made of"
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise InputError(
            f"{spec} gives a ScriptModule, whose parts do not show what they give: give the module that it was made of"
        )
    values = [value for value in chain(module.parameters(), module.buffers()) if not is_lazy(value)]
    if any(value.is_meta for value in values):
        raise InputError(f"{spec} gives a module on the meta device, which has no values: build it on the CPU")
    others = {value.dtype for value in values if value.is_floating_point()} - {torch.float32}
    if not others or any(value.is_quantized for value in values):
        return module, ()
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
    if not converts:
        raise InputError(f"the weights of {spec} are {names}, and images float32: pass module.float()")
    return module.float(), (f"the weights of {spec} are {names}: they are computed with as float32",)


def is_unbuilt(module: nn.Module) -> bool:
    """Return whether layers of a module get their shapes from the first images that it is run on (nn.LazyLinear and the like)."""
    return any(is_lazy(value) for value in chain(module.parameters(), module.buffers()))


def unsavable(module: nn.Module) -> list[str]:
    """Return the names under which a module keeps more than plain tensors beside its weights, as quantised ones do."""
    return [
        name
        for name, value in module.state_dict().items()
        if not isinstance(value, Tensor) or (not is_lazy(value) and value.is_quantized)
    ]


def _exported(module: nn.Module) -> bool:
    """Return whether a module is that of an exported program, whose mode cannot be set."""
    return isinstance(module, torch.fx.GraphModule) and "train" in vars(module)
