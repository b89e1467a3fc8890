"""A separable power: diagonal derivatives, nonzero up to order 6, zero beyond."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import separable
from hograd_bench.problems._contract import Draw, Instance, Spec, problem

EXPONENT = 6


@problem(
    "powers",
    formula="f(x) = Σ xᵢ⁶",
    source="power rule: p!/(p−k)! xᵖ⁻ᵏ; the chapter's Σx³ and x⁴ at a higher degree",
    family="elementwise",
    sizes={"n": "dimension of x"},
    # pow counts as one transcendental operation: torch calls std::pow beyond the cube.
    operations=lambda s: {"transcendental": s.n, "add": s.n - 1},
)
def powers(spec: Spec, draw: Draw) -> Instance:
    """x in [1/2, 3/2): away from zero, where high derivatives of a power would vanish."""
    x = draw.uniform(spec.n, low=0.5, high=1.5)

    def f(x: Tensor) -> Tensor:
        return (x**EXPONENT).sum()

    def derivative(order: int) -> Tensor:
        if order > EXPONENT:
            return torch.zeros_like(x)
        return math.perm(EXPONENT, order) * x ** (EXPONENT - order)

    return Instance(f, x, closed_form=separable(x, derivative))
