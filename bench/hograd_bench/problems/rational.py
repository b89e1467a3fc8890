"""A separable rational function: division, and derivatives that change sign and grow like k!."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import separable
from hograd_bench.problems._contract import Draw, Instance, Spec, problem


@problem(
    "rational",
    formula="f(x) = Σ xᵢ / (1 + xᵢ²) = Σ Re 1/(xᵢ − i)",
    source="partial fractions over the complex numbers: k-th derivative (−1)ᵏ k! Re (x − i)^−(k+1)",
    family="elementwise",
    sizes={"n": "dimension of x"},
    operations=lambda s: {"mul": s.n, "add": s.n + s.n - 1, "div": s.n},
)
def rational(spec: Spec, draw: Draw) -> Instance:
    """x in [1/2, 3/2): |x − i| > 1, so that derivatives grow no faster than k!."""
    x = draw.uniform(spec.n, low=0.5, high=1.5)

    def f(x: Tensor) -> Tensor:
        return (x / (1 + x**2)).sum()

    def derivative(order: int) -> Tensor:
        pole = torch.complex(x.double(), torch.full_like(x, -1, dtype=torch.float64))
        values: Tensor = (-1) ** order * math.factorial(order) * torch.pow(pole, -(order + 1)).real
        return values.to(x.dtype)

    return Instance(f, x, closed_form=separable(x, derivative))
