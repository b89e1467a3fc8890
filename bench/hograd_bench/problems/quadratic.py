"""A dense quadratic: constant Hessian, zero beyond."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._contract import ClosedForm, Draw, Instance, Spec, problem


@problem(
    "quadratic",
    formula="f(x) = xᵀAx/2 + bᵀx, A symmetric",
    source="Nocedal & Wright 2006, §2.2",
    family="dense",
    sizes={"n": "dimension of x"},
    # A@x: n² multiplications, n(n-1) additions; two dots; the half and the final sum.
    operations=lambda s: {"mul": s.n * s.n + 2 * s.n + 1, "add": s.n * (s.n - 1) + 2 * (s.n - 1) + 1},
)
def quadratic(spec: Spec, draw: Draw) -> Instance:
    """A = (M + Mᵀ)/2 + I with M normal of scale n^-1/2, so that eigenvalues stay of order one."""
    half = draw.normal(spec.n, spec.n, scale=spec.n**-0.5)
    a = draw.tensor((half + half.T) / 2 + torch.eye(spec.n, dtype=half.dtype, device=half.device))
    b = draw.normal(spec.n)
    x = draw.normal(spec.n)

    def f(x: Tensor) -> Tensor:
        return 0.5 * (x @ (a @ x)) + b @ x

    def tensor(order: int) -> Tensor:
        if order == 1:
            return a @ x + b
        return a if order == 2 else torch.zeros(x.shape * order, dtype=x.dtype, device=x.device)

    def product(order: int, v: Tensor) -> Tensor:
        if order == 1:
            return a @ x + b
        return a @ v if order == 2 else torch.zeros_like(x)

    def directional(order: int, v: Tensor) -> Tensor:
        return v @ product(order, v)

    return Instance(f, x, closed_form=ClosedForm(tensor, product, directional))
