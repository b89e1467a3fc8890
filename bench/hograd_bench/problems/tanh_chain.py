"""A chain of depth T of elementwise tanh: the chapter's length-T computation, n of them side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import separable
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "tanh_chain",
    formula="f(x) = Σ tanh(tanh(…tanh(xᵢ))), T times",
    source="Griewank & Walther 2008, ch. 13 (ODE h = tanh u: h′ = (1 − h²) u′), composed",
    family="elementwise",
    sizes={"n": "dimension of x", "depth": "length T of the chain"},
    operations=lambda s: {"transcendental": s.n * s.depth, "add": s.n - 1},
)
def tanh_chain(spec: Spec, draw: Draw) -> Instance:
    """x in [1/2, 3/2): iterates fall slowly towards the fixed point 0, where even derivatives would vanish."""
    x = draw.uniform(spec.n, low=0.5, high=1.5)

    def f(x: Tensor) -> Tensor:
        for _ in range(spec.depth):
            x = x.tanh()
        return x.sum()

    def derivative(order: int) -> Tensor:
        series = Series.line(x, torch.ones_like(x), order)
        for _ in range(spec.depth):
            series = series.tanh()
        return series.derivative(order)

    return Instance(f, x, closed_form=separable(x, derivative))
