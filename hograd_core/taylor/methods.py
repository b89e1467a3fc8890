"""Taylor mode as a method of the derivative operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core._entrance import kept, released
from hograd_core._registry import method
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product
from hograd_core.derivatives.directional_derivative import directional_derivative
from hograd_core.taylor.driver import propagate


@method(
    directional_derivative,
    "taylor",
    mode="Taylor",
    source="Griewank & Walther 2008, §13.2 (truncated power series, O(k²) operations)",
)
def taylor(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """k! times the coefficient of tᵏ of f(x + tv): one pass of f on series, no tape."""
    series = propagate(f, [x, v, *[None] * (order - 1)], recorded=kept())
    derivative: Tensor = released(series[order] * math.factorial(order))
    return derivative


@method(
    derivative_vector_product,
    "reverse_over_taylor",
    mode="reverse over Taylor",
    source="Griewank & Walther 2008, §13.4 (adjoints of Taylor coefficients)",
)
def reverse_over_taylor(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """The gradient in x of D^{k-1}f(x)[v, …, v], which is a Taylor coefficient of f: one tape of O(k²) operations."""
    point = x.clone() if x.requires_grad else x.clone().requires_grad_(True)
    coefficient = propagate(f, [point, v, *[None] * (order - 2)][:order])[order - 1]
    if not coefficient.requires_grad:
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(coefficient, point, create_graph=kept(), allow_unused=True, materialize_grads=True)
    product: Tensor = released(g * math.factorial(order - 1))
    return product


@method(
    derivative_vector_product,
    "taylor_over_reverse",
    mode="Taylor over reverse",
    source="Griewank & Walther 2008, §13.4 (the gradient program run on truncated power series)",
)
def taylor_over_reverse(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """(k−1)! times the coefficient of tᵏ⁻¹ of ∇f(x + tv): one gradient, run on series. O(k²) operations.

    The sweep is one that could be differentiated: PyTorch's other formulas (of det, solve, SiLU, the norms) take
    factors and statistics saved by the forward for constants, which along a series they are not.
    """

    def gradient(point: Tensor) -> Tensor:
        y = f(point.requires_grad_(True))
        g = torch.autograd.grad(y, point, create_graph=True, allow_unused=True)[0] if y.requires_grad else None
        return torch.zeros_like(x) if g is None else g

    coefficient = propagate(gradient, [x, v, *[None] * (order - 2)][:order], recorded=kept())[order - 1]
    product: Tensor = released(coefficient * math.factorial(order - 1))
    return product
