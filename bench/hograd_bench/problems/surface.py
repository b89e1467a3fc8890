"""The area of a surface over a square grid: the Hessian of a nonlinear diffusion in two dimensions."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines, set_partitions
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


def _operations(s: Spec) -> dict[str, int]:
    heights, cells = s.n**2, (s.n - 1) ** 2
    # A height: its square. A cell: two differences, their squares, two sums, a root. All heights: a half.
    sums = heights - 1 + max(cells - 1, 0) + 1
    return {"add": 4 * cells + sums, "mul": heights + 2 * cells, "div": 1, "transcendental": cells}


@problem(
    "surface",
    formula="f(x) = Σ xᵢⱼ²/2 + Σ √(1 + aᵢⱼ² + bᵢⱼ²), a = xᵢ₊₁,ⱼ − xᵢⱼ, b = xᵢ,ⱼ₊₁ − xᵢⱼ, i, j < n",
    source="Averick, Carter, Moré & Xue 1992 (MINPACK-2, minimal surface area), on an elastic bed, not in a frame",
    family="elementwise",
    sizes={"n": "points along a side of the grid: n² heights"},
    operations=_operations,
)
def surface(spec: Spec, draw: Draw) -> Instance:
    """Heights normal; each meets six neighbours."""
    n = spec.n
    x = draw.normal(n**2)

    def f(x: Tensor) -> Tensor:
        a, b = along(x.reshape((n, n)))
        return (x**2).sum() / 2 + (1 + (a**2 + b**2)).sqrt().sum()

    def along(u: Tensor) -> tuple[Tensor, Tensor]:
        """Both slopes of every cell."""
        corner = u[:-1, :-1]
        return u[1:, :-1] - corner, u[:-1, 1:] - corner

    def slopes(x: Series) -> tuple[Series, Series, Series]:
        """Those, and the area over the cell."""
        a = x.map(lambda c: along(c.reshape(n, n))[0])
        b = x.map(lambda c: along(c.reshape(n, n))[1])
        return a, b, (a * a + b * b + 1.0).sqrt()

    def value(x: Series) -> Series:
        return (x * x * 0.5).map(torch.sum) + slopes(x)[2].map(torch.sum)

    def gradient(x: Series) -> Series:
        a, b, area = slopes(x)
        pad = torch.nn.functional.pad  # columns before and after, rows before and after
        by_a = (a / area).map(lambda c: (pad(c, (0, 1, 1, 0)) - pad(c, (0, 1, 0, 1))).reshape(-1))
        by_b = (b / area).map(lambda c: (pad(c, (1, 0, 0, 1)) - pad(c, (0, 1, 0, 1))).reshape(-1))
        return x + by_a + by_b

    def tensor(order: int) -> Tensor:
        eye = torch.eye(n**2, dtype=x.dtype, device=x.device)
        maps = [m.reshape(-1, n**2) for m in along(eye.reshape(n, n, n**2))]
        z = torch.stack([m @ x for m in maps])
        result = {1: x, 2: eye}.get(order, torch.zeros((n**2,) * order, dtype=x.dtype, device=x.device))
        letters = "abcdefghij"[:order]
        for axes in itertools.product((0, 1), repeat=order):
            sides = ",".join("z" + c for c in letters)
            result = result + torch.einsum(f"z,{sides}->{letters}", _area(z, axes), *(maps[i] for i in axes))
        return result

    return Instance(f, x, closed_form=along_lines(x, value, gradient, tensor))


def _area(z: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A derivative of √(1 + z₀² + z₁²) along these axes, in every cell.

    By Faà di Bruno over partitions into blocks of one (2 z) and two (2), as z² has no further derivatives.
    """
    square = 1 + (z * z).sum(0)
    total = torch.zeros_like(square)
    for partition in set_partitions(len(axes)):
        if any(len(block) > 2 or len({axes[i] for i in block}) > 1 for block in partition):
            continue
        term = torch.ones_like(square)
        for step, block in enumerate(partition):
            term = term * (0.5 - step) * (2 * z[axes[block[0]]] if len(block) == 1 else 2)
        total = total + term * square ** (0.5 - len(partition))
    return total
