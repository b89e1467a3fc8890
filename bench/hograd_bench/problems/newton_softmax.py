"""Softmax regression with a ridge: strictly convex, the Newton system's everyday case."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._contract import ClosedForm, Draw, Instance, Spec, problem
from hograd_bench.problems._networks import CLASSES, cross_entropy_operations, product_operations, total
from hograd_bench.problems.softmax_regression import softmax_regression

RIDGE = 0.0625
"""A power of two: exact in every dtype."""


def _operations(s: Spec) -> dict[str, int]:
    parameters = CLASSES * s.n
    # Squares and the factor; their sum, and the sum with the mean cross-entropy.
    ridge = {"mul": 2 * parameters, "add": parameters}
    return total(product_operations(s.batch, s.n, CLASSES), cross_entropy_operations(s.batch), ridge)


@problem(
    "newton_softmax",
    formula="f(x) = mean_b CE(W a_b, y_b) + λ‖W‖²/2, W = x of shape 3 × n, λ = 1/16",
    source="Böhning 1992 with the Gaussian prior of Bishop 2006, §4.5; Hessian as softmax_regression's plus λI",
    family="application",
    sizes={"n": "features; x has 3 n elements", "batch": "examples"},
    provides=("damping",),
    operations=_operations,
)
def newton_softmax(spec: Spec, draw: Draw) -> Instance:
    """The data and the point of softmax_regression; condition number at most 1 + 8 max‖a‖²."""
    plain = softmax_regression(spec, draw)
    assert plain.closed_form is not None
    x, known = plain.x, plain.closed_form

    def f(x: Tensor) -> Tensor:
        return plain.f(x) + (RIDGE / 2 * x**2).sum()

    def tensor(order: int) -> Tensor:
        assert known.tensor is not None
        entries = known.tensor(order)
        assert entries is not None
        ridge = {1: RIDGE * x, 2: RIDGE * torch.eye(len(x), dtype=x.dtype, device=x.device)}
        return entries + ridge[order] if order in ridge else entries

    def product(order: int, v: Tensor) -> Tensor:
        assert known.product is not None
        entries = known.product(order, v)
        assert entries is not None
        return entries + RIDGE * {1: x, 2: v}[order] if order <= 2 else entries

    # A direction of its own: along softmax_regression's the third derivative of some sizes all but cancels.
    v = draw.normal(len(x))
    # The ridge alone makes the Newton system positive definite.
    return Instance(f, x, v, ClosedForm(tensor, product, lambda order, v: v @ product(order, v)), {"damping": 0.0})
