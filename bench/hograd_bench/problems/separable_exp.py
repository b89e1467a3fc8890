"""A sum of exponentials: the k-th derivative costs no more than the first and never vanishes."""

from __future__ import annotations

from torch import Tensor

from hograd_bench.problems._closed_forms import separable
from hograd_bench.problems._contract import Draw, Instance, Spec, problem


@problem(
    "separable_exp",
    formula="f(x) = Σ exp(aᵢ xᵢ)",
    source="Griewank & Walther 2008, Table 13.2 (exp); derivative aᵏ exp(a x)",
    family="elementwise",
    sizes={"n": "dimension of x"},
    operations=lambda s: {"mul": s.n, "transcendental": s.n, "add": s.n - 1},
)
def separable_exp(spec: Spec, draw: Draw) -> Instance:
    """a in [1/2, 3/2) and x in [-1, 1): derivatives of all orders are of the size of f."""
    a = draw.uniform(spec.n, low=0.5, high=1.5)
    x = draw.uniform(spec.n, low=-1.0, high=1.0)

    def f(x: Tensor) -> Tensor:
        return (a * x).exp().sum()

    return Instance(f, x, closed_form=separable(x, lambda order: a**order * (a * x).exp()))
