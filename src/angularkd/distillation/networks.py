"""What two networks must be, so that one may learn from the other: with weights, in a mode that can be set, and apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit._trace import TracedModule
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from angularkd.errors import InputError
from angularkd.features import Trace, trace

MODAL = re.compile(r"aten::(batch_norm|\w*dropout)")
"""Operations of a traced graph that have a mode."""


def check_network(module: nn.Module, role: str) -> None:
    """Check that a network can be run, and put into a mode.

    Args:
        module: the network.
        role: "teacher" or "student": what errors call it.

    Raises:
        InputError: for one whose weights are not there yet, and for an exported program.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"the {role}'s '{name}' has no shape before its first forward: run {role}(images) once, then make the Distiller"
            )
        if tensor.is_meta:
            raise InputError(
                f"the {role}'s '{name}' is on the device meta, without values: {role}.to_empty(device=...), load its weights, then make "
                "the Distiller"
            )
    if role == "student" and any(map(_stays_in_its_mode, module.modules())):
        raise InputError(
            "the student holds what torch.jit.trace has made, whose batch norms and dropouts stay in the mode in which it was traced: "
            "pass the module itself"
        )
    if isinstance(module, torch.fx.GraphModule) and "train" in vars(module):
        raise InputError(
            f"the {role} is the module of an exported program, which stays in one mode and does not show what its parts give: pass the "
            "module that was exported"
        )


def check_learns(total: Tensor, student: nn.Module) -> None:
    """Check that a loss reaches a student that has something to train.

    Raises:
        InputError: where it does not.
    """
    if not total.requires_grad and torch.is_grad_enabled() and _trains(student):
        raise InputError(
            "no loss reaches the student's weights, for its forward runs without gradients: leave out torch.no_grad, "
            "torch.inference_mode and detach in it"
        )


def check_apart(teacher: nn.Module, student: nn.Module) -> None:
    """Check that training the student changes nothing of its teacher, nor evaluation mode of the teacher the student.

    Parts that are frozen may be shared.

    Raises:
        InputError: where both share weights that are to be trained, or parts that behave otherwise in training.
    """
    remedy = "give the student its own, by copy.deepcopy, or freeze it by requires_grad_(False)"
    if teacher is student:
        raise InputError(
            "teacher and student are one module, which cannot learn from itself: give copy.deepcopy(teacher) as the student"
        )
    parts = {id(part) for part in teacher.modules()}
    for name, part in student.named_modules():
        if id(part) in parts and (_trains(part) or _differs_in_training(part)):
            raise InputError(f"teacher and student share the module '{name}' of the student: {remedy}")
    held = {pointer for tensor in (*teacher.parameters(), *teacher.buffers()) if (pointer := _memory(tensor))}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and _memory(parameter) in held:
            raise InputError(f"teacher and student share the weights '{name}' of the student: {remedy}")
    for name, part in student.named_modules():
        if _differs_in_training(part) and any(_memory(buffer) in held for buffer in part.buffers(recurse=False)):
            raise InputError(f"teacher and student share the statistics of '{name}' of the student: {remedy}")


def trace_network(module: nn.Module, images: Tensor, role: str) -> Trace:
    """Return the trace of a network (`angularkd.features.trace`); errors are those of `check_images`, and the network's."""
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            f"the {role} is a ScriptModule, whose parts do not show what they give: pass the module that it was made of, or "
            "leave out the losses that use more than logits"
        )
    try:
        return trace(module, images)
    except RuntimeError:
        check_images(module, images, role)
        raise


def check_images(module: nn.Module, images: Tensor, role: str) -> None:
    """Raise InputError where images are on another device than a network's weights, or of another type: call it when a forward fails.

    Args:
        module: the network.
        images: as they were given.
        role: "teacher" or "student": what errors call it.
    """
    weights = next((each for each in module.parameters() if each.is_floating_point()), None)
    if weights is None:
        return
    if weights.device != images.device:
        raise InputError(
            f"the {role} is on {weights.device} and its images are on {images.device}: bring both to one device by "
            "distiller.to(...) and images.to(...)"
        )
    if weights.dtype != images.dtype and not torch.is_autocast_enabled(images.device.type):
        raise InputError(
            f"the {role}'s weights are {weights.dtype} and its images {images.dtype}: convert it by {role}.to({images.dtype}), or the "
            f"images in `{role}_transform`"
        )


@contextmanager
def still(module: nn.Module, role: str) -> Iterator[None]:
    """Check that what runs inside leaves the buffers that a network is saved with as they were.

    Raises:
        InputError: naming one that has changed; all are put back.
    """
    saved = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    before = {name: buffer.detach().clone() for name, buffer in buffers.items()}
    yield
    changed = [name for name, buffer in module.named_buffers() if name in before and not _equal(buffer, before[name])]
    if changed:
        module.load_state_dict(before, strict=False)
        raise InputError(
            f"the {role} changes its buffer '{changed[0]}' in each forward, in evaluation mode too, so that no two answers are those of "
            "one network: leave that out in evaluation mode (`if self.training:`)"
        )


def _stays_in_its_mode(part: nn.Module) -> bool:
    """Return whether a part was traced with what behaves otherwise in training."""
    return isinstance(part, TracedModule) and bool(MODAL.search(str(part.inlined_graph)))


def _trains(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _differs_in_training(part: nn.Module) -> bool:
    """Return whether a part drops, or keeps statistics, in training; a frozen one is kept in evaluation mode."""
    frozen = any(True for _ in part.parameters()) and not _trains(part)
    return isinstance(part, _DropoutNd | _NormBase) and not frozen


def _memory(tensor: Tensor) -> int:
    """Return where a tensor's values are; 0 where they are not in one place."""
    return tensor.data_ptr() if tensor.layout is torch.strided else 0


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(((first == second) | (first != first) & (second != second)).all())
