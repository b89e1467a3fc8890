"""A ring of springs that are not linear: a cyclic tridiagonal Hessian, and no derivative beyond the fourth."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "ring",
    formula="f(x) = Σᵢ dᵢ²/2 + dᵢ³/3 + dᵢ⁴/4, dᵢ = xᵢ₊₁ − xᵢ, indices cyclic",
    source="Fermi, Pasta & Ulam 1955 (the potential of the α + β chain, periodic)",
    family="elementwise",
    sizes={"n": "dimension of x"},
    # d; d², d² d, d² d²; three quotients and two sums a term.
    operations=lambda s: {"mul": 3 * s.n, "div": 3 * s.n, "add": 3 * s.n + s.n - 1},
)
def ring(spec: Spec, draw: Draw) -> Instance:
    """x normal: springs are stretched and pressed."""
    x = draw.normal(spec.n)

    def f(x: Tensor) -> Tensor:
        d = x.roll(-1) - x
        square = d**2
        return (square / 2 + square * d / 3 + square * square / 4).sum()

    def stretched(x: Series) -> Series:
        return x.map(lambda c: c.roll(-1) - c)

    def value(x: Series) -> Series:
        d = stretched(x)
        return (d * d * (1 / 2) + d * d * d * (1 / 3) + d * d * d * d * (1 / 4)).map(torch.sum)

    def gradient(x: Series) -> Series:
        d = stretched(x)
        return (d + d * d + d * d * d).map(lambda c: c.roll(1) - c)

    def tensor(order: int) -> Tensor:
        d = x.roll(-1) - x
        force = {1: d + d**2 + d**3, 2: 1 + 2 * d + 3 * d**2, 3: 2 + 6 * d, 4: torch.full_like(d, 6.0)}
        eye = torch.eye(spec.n, dtype=x.dtype, device=x.device)
        springs = eye.roll(-1, 0) - eye  # ∂d: row i is that of spring i
        result = force.get(order, torch.zeros_like(d))
        letters = "abcdefghij"[:order]
        return torch.einsum(f"z,{','.join('z' + c for c in letters)}->{letters}", result, *[springs] * order)

    return Instance(f, x, closed_form=along_lines(x, value, gradient, tensor))
