"""Log-sum-exp: O(n) to evaluate, yet with a dense Hessian and dense derivatives of every order."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import softmax_cumulants
from hograd_bench.problems._contract import ClosedForm, Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "log_sum_exp",
    formula="f(x) = log Σ exp(xᵢ)",
    source="Boyd & Vandenberghe 2004, §3.1.5; all orders: McCullagh 1987, ch. 2",
    family="elementwise",
    sizes={"n": "dimension of x"},
    # Shifted by the maximum as torch does: n−1 comparisons, n differences, n exp, n−1 sums, log, shift back.
    operations=lambda s: {"compare": s.n - 1, "add": s.n + s.n - 1 + 1, "transcendental": s.n + 1},
)
def log_sum_exp(spec: Spec, draw: Draw) -> Instance:
    """x normal: no single term dominates the sum."""
    x = draw.normal(spec.n)

    def f(x: Tensor) -> Tensor:
        return x.logsumexp(0)

    def softmax(x: Series) -> Series:
        e = (x - x.coefficients[0].amax()).exp()
        return e / e.map(torch.sum)

    def directional(order: int, v: Tensor) -> Tensor:
        return v @ product(order, v)

    def product(order: int, v: Tensor) -> Tensor:
        return softmax(Series.line(x, v, order - 1)).derivative(order - 1)

    def tensor(order: int) -> Tensor:
        return softmax_cumulants(x.softmax(0), order)

    return Instance(f, x, closed_form=ClosedForm(tensor, product, directional))
