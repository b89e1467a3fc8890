"""The gradient of a scalar function: the unit in which every other cost is counted."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_point, scalar_function
from hograd_core._differences import check_derivative
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.derivatives._autograd import grad_or_zeros, leaf


@operator(
    result="x", linear=True, default="autograd", order=1, verification=functools.partial(check_derivative, slots=None)
)
def gradient(f: Function[T], x: T, **how: Unpack[How]) -> T:
    """The gradient of f at x.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.

    Returns:
        A detached tensor with the shape, dtype and device of x.

    Raises:
        TypeError: f or x is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or x is empty.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    return to_method(scalar_function(f), check_point(x))


@method(
    gradient,
    "autograd",
    mode="reverse",
    source="torch.autograd.grad; Griewank & Walther 2008, §3.2",
    amounts_to=(("autograd", 1),),
)
def autograd(f: ScalarFunction, x: Tensor) -> Tensor:
    """One reverse sweep over the recorded tape. At most about 4 evaluations of f in operations; tape of f."""
    point = leaf(x)
    return grad_or_zeros(f(point), point, create_graph=False)


@method(gradient, "func", mode="reverse", source="torch.func.grad", functorch=True, amounts_to=(("func", 1),))
def func(f: ScalarFunction, x: Tensor) -> Tensor:
    """The same sweep by the functional transform."""
    derivative: Tensor = torch.func.grad(f)(x)
    return derivative
