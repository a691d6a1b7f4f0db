"""Polynomials that stand for AMD's transcendental functions in compiled code.

They are ours because measurements ask for them: in code that `torch.compile` writes for a processor, arccos, cos, exp and log are
calls where a polynomial is a few multiplications, and together they cost more than the rest of AMD. Code that is not compiled uses
PyTorch's own functions; both agree to the last digits (`tests/distillation/test_compiling.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

Series = dict[torch.dtype, tuple[float, ...]]
"""A polynomial's coefficients from the lowest to the highest, by the type that they are exact enough for."""

NEGLIGIBLE_FROM = 60.0
"""From where on exp(-x) adds nothing to 1, nor to float64's last digit of x."""


def series_of(function: Callable[[np.ndarray], np.ndarray]) -> Series:
    """Return a function on 0..1, interpolated at Chebyshev's points, as a polynomial in 2 x - 1.

    Args:
        function: from float64 numbers in 0..1, ends excluded, to float64 numbers.

    Returns:
        The coefficients by the type of x: of degree 10 for float32, 20 for float64.
    """
    return {
        dtype: tuple(
            Chebyshev.interpolate(function, degree, domain=[0, 1]).convert(kind=Polynomial, domain=[0, 1]).coef.tolist()
        )
        for dtype, degree in ((torch.float32, 10), (torch.float64, 20))
    }


def cosine_series(margin: float, additive_margin: float = 0.0) -> Series | None:
    """Return cos(margin * arccos(q)), 0 <= q <= 1, as a polynomial in 2 q - 1, by the type of q.

    The function is even in the angle, so analytic at q = 1; its nearest singularity is q = -1, and Chebyshev interpolation
    gains a factor 3 + sqrt(8) with every degree: the error is below 1e-8 in float32, 1e-14 in float64.

    Returns:
        The coefficients, or None with an additive margin, where the function is not analytic, and for margins above 2, beyond
        half a turn of the cosine.
    """
    if additive_margin != 0 or margin > 2:
        return None
    return series_of(lambda q: np.cos(margin * np.arccos(q)))


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return the polynomial of these coefficients, from the lowest to the highest, at each x, by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


LOG1P_SERIES = series_of(lambda z: np.log1p(z) / z)  # Chebyshev's points lie inside of 0..1


class LogSigmoid(torch.autograd.Function):
    """log(1 / (1 + exp(-x))) for compiled code, where it is cheaper than PyTorch's own.

    Beyond |x| = 60 exp(-|x|) is left where it is: it adds nothing to float64, and below 1e-38 processors compute float32
    with numbers that are slow. For z = exp(-|x|) between 0 and 1, log(1 + z) / z is a polynomial.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the function at each x."""
        ctx.save_for_backward(x)
        z = torch.exp(-x.abs().clamp(max=NEGLIGIBLE_FROM))
        return x.clamp(max=0) - z * polynomial(2 * z - 1, LOG1P_SERIES[x.dtype])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to x: the slope is 1 / (1 + exp(x))."""
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(-x.clamp(-NEGLIGIBLE_FROM, NEGLIGIBLE_FROM))


def log_sigmoid(x: Tensor) -> Tensor:
    """Return `LogSigmoid` of each x."""
    return LogSigmoid.apply(x)  # type: ignore[no-untyped-call]
