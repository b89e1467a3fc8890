"""Rosenbrock's banana in n dimensions (chained): a quartic with a tridiagonal, indefinite Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines, least_squares
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "rosenbrock",
    formula="f(x) = Σᵢ 100 (xᵢ₊₁ − xᵢ²)² + (1 − xᵢ)², i < n",
    source="Rosenbrock 1960; chained to n dimensions as in scipy.optimize.rosen",
    family="elementwise",
    sizes={"n": "dimension of x, at least 2"},
    provides=("known_minimum",),
    # A term: x², a², 100 a², (1 − x)²: 4 multiplications; two differences and a sum.
    operations=lambda s: {"mul": 4 * (s.n - 1), "add": 3 * (s.n - 1) + s.n - 2},
)
def rosenbrock(spec: Spec, draw: Draw) -> Instance:
    """x = 1 + 0.3 normal: round the minimum at (1, ..., 1) but not on it.

    Raises:
        ValueError: n < 2.
    """
    if spec.n < 2:
        raise ValueError(f"n: got {spec.n}, expected >= 2; each term of rosenbrock couples two variables")
    x = draw.tensor(1 + draw.normal(spec.n, scale=0.3).double())

    def f(x: Tensor) -> Tensor:
        head, tail = x[:-1], x[1:]
        return (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum()

    def value(x: Series) -> Series:
        head, tail = x.map(lambda c: c[:-1]), x.map(lambda c: c[1:])
        bend, gap = tail - head * head, head - 1.0
        return (bend * bend * 100.0 + gap * gap).map(torch.sum)

    def gradient(x: Series) -> Series:
        head, tail = x.map(lambda c: c[:-1]), x.map(lambda c: c[1:])
        bend = tail - head * head
        by_head = (head - 1.0) * 2.0 - head * bend * 400.0
        pad = torch.nn.functional.pad
        return by_head.map(lambda c: pad(c, (0, 1))) + (bend * 200.0).map(lambda c: pad(c, (1, 0)))

    def tensor(order: int) -> Tensor:
        # f = Σ r²/2 with r = √200 (tail − head²) and √2 (1 − head), both at most quadratic in x.
        head, tail = x[:-1], x[1:]
        steep, flat = 200**0.5, 2**0.5
        eye = torch.eye(spec.n, dtype=x.dtype, device=x.device)
        to_head, to_tail = eye[:-1], eye[1:]
        residual = torch.cat([steep * (tail - head**2), flat * (1 - head)])
        jacobian = torch.cat([steep * (to_tail - 2 * head[:, None] * to_head), -flat * to_head])
        bend = -2 * steep * to_head[:, :, None] * to_head[:, None, :]
        return least_squares(residual, jacobian, torch.cat([bend, torch.zeros_like(bend)]))(order)

    extras = {"known_minimum": torch.ones_like(x)}
    return Instance(f, x, closed_form=along_lines(x, value, gradient, tensor), extras=extras)
