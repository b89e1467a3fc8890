"""A linear function: every derivative beyond the first is zero, and autograd's gradient does not depend on x."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._contract import ClosedForm, Draw, Instance, Spec, problem


@problem(
    "linear",
    formula="f(x) = bᵀx",
    source="elementary: the affine part of Nocedal & Wright 2006, §2.2",
    family="elementwise",
    sizes={"n": "dimension of x"},
    operations=lambda s: {"mul": s.n, "add": s.n - 1},
)
def linear(spec: Spec, draw: Draw) -> Instance:
    """The edge case of every method that differentiates a gradient: there is nothing left to differentiate."""
    b = draw.normal(spec.n)
    x = draw.normal(spec.n)

    def f(x: Tensor) -> Tensor:
        return b @ x

    def tensor(order: int) -> Tensor:
        return b.clone() if order == 1 else torch.zeros(x.shape * order, dtype=x.dtype, device=x.device)

    def product(order: int, v: Tensor) -> Tensor:
        return b.clone() if order == 1 else torch.zeros_like(v)

    def directional(order: int, v: Tensor) -> Tensor:
        return b @ v if order == 1 else v.new_zeros(())

    return Instance(f, x, closed_form=ClosedForm(tensor, product, directional))
