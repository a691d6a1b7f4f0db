"""What every loss on features has to satisfy, whatever it computes, and how a loss is called past the checks of its shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.losses import AMDLoss

PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Shapes = Sequence[tuple[int, int, int]]

without_shape_checks = pytest.mark.skipif(
    hasattr(AMDLoss.forward, "__wrapped__"), reason="the pass of shapes refuses such arguments before the library does"
)


def random_features(shapes: Shapes, seed: int, batch: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Signed features, one tensor a stage, as fresh leaves."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [draw.to(dtype).requires_grad_() for draw in draws]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter moved away from its special initial value (1, 0) of a normalisation."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return module


def assert_gradients(loss: nn.Module, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """gradcheck with respect to the student; the mask of a loss that draws one is the same in each call."""

    def value(*leaves: Tensor) -> Tensor:
        torch.manual_seed(0)
        return loss(leaves, teacher)

    assert torch.autograd.gradcheck(value, tuple(student))


def assert_teacher_detached(loss: nn.Module, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    loss(student, teacher).backward()
    assert all(stage.grad is not None for stage in student)
    assert all(stage.requires_grad and stage.grad is None for stage in teacher)


def assert_precision(loss: nn.Module, shapes: tuple[Shapes, Shapes], dtype: torch.dtype, scale: float = 300.0) -> None:
    """Finite values and gradients, equal to those of the same features widened, where squares overflow float16."""
    student, teacher = (random_features(side, seed, dtype=dtype) for seed, side in enumerate(shapes))
    student = [(scale * stage).detach().requires_grad_() for stage in student]
    teacher = [(scale * stage).detach() for stage in teacher]
    wide = torch.promote_types(dtype, torch.float32)
    torch.manual_seed(0)
    value = loss(student, teacher)
    torch.manual_seed(0)
    expected = loss([stage.detach().to(wide) for stage in student], [stage.to(wide) for stage in teacher])
    assert torch.finfo(value.dtype).bits >= 32
    assert value.isfinite()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    for gradient in torch.autograd.grad(value * 1e-6, student):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


def assert_permutation_invariant(loss: nn.Module, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    order = torch.randperm(len(student[0]), generator=torch.Generator().manual_seed(1))
    assert not torch.equal(order, order.sort().values)
    shuffled = loss([stage[order] for stage in student], [stage[order] for stage in teacher])
    torch.testing.assert_close(shuffled, loss(student, teacher), rtol=1e-12, atol=1e-14)
    with pytest.raises(AssertionError):  # the pairing of the samples matters: the permutation above changed something
        torch.testing.assert_close(loss([stage[order] for stage in student], teacher), loss(student, teacher))


def bare(loss: nn.Module, *inputs: Any) -> Tensor:
    """`forward` without the check of its signature's shapes, which users do not have and the tests' pass of shapes has."""
    return inspect.unwrap(type(loss).forward)(loss, *inputs)


def assert_refused(call: Callable[[], Any], message: str) -> None:
    """The call raises InputError with this message, or one that contains it, on one line."""
    with pytest.raises(InputError) as refusal:
        call()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
