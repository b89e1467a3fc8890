"""Taylor mode as a method of the derivative operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction
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
    with torch.no_grad():
        series = propagate(f, [x, v, *[None] * (order - 1)])
        return series[order] * math.factorial(order)


@method(
    derivative_vector_product,
    "reverse_over_taylor",
    mode="reverse over Taylor",
    source="Griewank & Walther 2008, §13.4 (adjoints of Taylor coefficients)",
)
def reverse_over_taylor(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """The gradient in x of D^{k-1}f(x)[v, …, v], which is a Taylor coefficient of f: one tape of O(k²) operations."""
    point = x.clone().requires_grad_(True)
    with torch.enable_grad():
        coefficient = propagate(f, [point, v, *[None] * (order - 2)][:order])[order - 1]
        if not coefficient.requires_grad:
            return torch.zeros_like(x)
        (g,) = torch.autograd.grad(coefficient, point, allow_unused=True, materialize_grads=True)
    return g.detach() * math.factorial(order - 1)


@method(
    derivative_vector_product,
    "taylor_over_reverse",
    mode="Taylor over reverse",
    source="Griewank & Walther 2008, §13.4 (the gradient program run on truncated power series)",
)
def taylor_over_reverse(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """(k−1)! times the coefficient of tᵏ⁻¹ of ∇f(x + tv): one plain gradient, run on series. O(k²) operations."""

    def gradient(point: Tensor) -> Tensor:
        with torch.enable_grad():
            y = f(point.requires_grad_(True))
            g = torch.autograd.grad(y, point, allow_unused=True)[0] if y.requires_grad else None
        return torch.zeros_like(x) if g is None else g

    with torch.no_grad():
        coefficient = propagate(gradient, [x, v, *[None] * (order - 2)][:order])[order - 1]
    return coefficient.detach() * math.factorial(order - 1)
