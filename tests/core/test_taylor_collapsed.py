"""Collapsed Taylor propagation: every rule against one pass a direction, its cost, and operators made of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from taylor_cases import BINARY, COMPOUND, CONVOLUTIONS, ELEMENTWISE, IMAGE, PRODUCTS, STRUCTURE, X, rand
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from hograd_core import UnsupportedError
from hograd_core.applications.pinn import hutchinson_laplacian, laplacian
from hograd_core.taylor import derivatives_along, summed_along

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
CASES: dict[str, Any] = {
    **ELEMENTWISE, **BINARY, **COMPOUND,
    **{f"{name}, structure": (lambda x, f=f: f(x.sin()).exp(), X) for name, f in STRUCTURE.items()},
    **{f"{name}, product": (lambda x, f=f: f(x.sin()).sin(), X) for name, f in PRODUCTS.items()},
    **{f"{name}, convolution": (lambda x, f=f: f(x.sin()).sin(), IMAGE) for name, f in CONVOLUTIONS.items()},
}  # fmt: skip


def one_by_one(f: Any, x: Tensor, directions: Tensor, order: int, weights: list[float] | None) -> Tensor:
    total = None
    for r, v in enumerate(directions):
        term = derivatives_along(f, x, v, order)[order] * (1.0 if weights is None else weights[r])
        total = term if total is None else total + term
    assert total is not None
    return total


@pytest.mark.parametrize("name", CASES)
def test_every_rule(name: str) -> None:
    f, x = CASES[name]
    directions = rand(3, *x.shape, seed=17)
    for order, weights in ((2, None), (3, [0.7, -1.3, 0.2])):
        found = summed_along(f, x, directions, order, weights)
        truth = one_by_one(f, x, directions, order, weights)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9 * float(truth.abs().max().clamp_min(1)))


@pytest.mark.parametrize("weights", [None, [1.0, 1.0], [2.0, -0.5], [1.0, -1.0], [-3.0, -3.0]])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_orders_and_weights_of_any_sign(order: int, weights: list[float] | None) -> None:
    def f(x: Tensor) -> Tensor:
        y = x.sin() @ rand(4, 4, seed=2)
        y.mul_(x.exp()).tanh_()
        return y.prod(1) / (1 + x.square().sum())

    directions = rand(2, 3, 4, seed=5)
    found = summed_along(f, X, directions, order, weights)
    truth = one_by_one(f, X, directions, order, weights)
    torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-11 * float(truth.abs().max()))


def flops(function: Any, x: Tensor) -> int:
    graph = make_fx(function)(x)
    with FlopCounterMode(display=False) as counter:
        graph(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("order", [2, 3, 4])
def test_products_are_those_of_the_law(order: int) -> None:
    """A layer multiplies the value, the sum of the highest and the others of each direction: 2 + (k − 1) R rows."""
    rows, count = 5, 7
    weight, directions = rand(4, 4, seed=3), rand(7, rows, 4, seed=1)

    def total(x: Tensor) -> Tensor:
        return summed_along(lambda z: (z.sin() @ weight).sum(1), x, directions, order)

    assert flops(total, rand(rows, 4)) == 2 * 4 * 4 * rows * (2 + (order - 1) * count)


def test_a_direction_that_all_points_share_is_multiplied_once() -> None:
    weight = rand(4, 4, seed=3)
    directions = torch.eye(4, dtype=torch.float64)[:, None].expand(4, 5, 4)

    def f(x: Tensor) -> Tensor:
        return (x @ weight).sin().sum(1)

    x = rand(5, 4)
    assert flops(lambda z: summed_along(f, z, directions, 2), x) == 2 * 4 * 4 * (5 + 4)
    found, truth = summed_along(f, x, directions, 2), one_by_one(f, x, directions, 2, None)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


def test_under_a_dispatch_mode() -> None:
    """As instruments use them: what is off while an operation is answered must not be looked for."""
    with FlopCounterMode(display=False):
        found = summed_along(torch.sin, X, rand(2, 3, 4), 2)
    assert torch.equal(found, summed_along(torch.sin, X, rand(2, 3, 4), 2))


def test_it_is_differentiated_in_parameters() -> None:
    weight = rand(4, 1, seed=3).requires_grad_()
    directions = rand(2, 3, 4, seed=5)
    gradients = []
    for total in (summed_along, one_by_one):
        result = total(lambda x: (x @ weight).sin().squeeze(1), X, directions, 2, None)
        gradients.append(torch.autograd.grad(result.sum(), weight)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_arguments_are_checked() -> None:
    f = torch.sin
    with pytest.raises(ValueError, match=r"directions: got shape \(4,\), expected \(R, 3, 4\)"):
        summed_along(f, X, torch.ones(4, dtype=torch.float64), 2)
    with pytest.raises(ValueError, match=r"directions: got torch.float32"):
        summed_along(f, X, torch.ones(1, 3, 4), 2)
    with pytest.raises(ValueError, match=r"weights: got 1 of them, expected 2"):
        summed_along(f, X, rand(2, 3, 4), 2, [1.0])
    with pytest.raises(UnsupportedError, match=r"torch\.func"):
        torch.func.vmap(lambda x: summed_along(f, x, torch.ones(2, 4, dtype=torch.float64), 2))(X)
    assert torch.equal(summed_along(lambda x: torch.ones(2), X, rand(2, 3, 4), 2), torch.zeros(2))
    assert torch.equal(summed_along(f, X, rand(2, 3, 4), 2, [0.0, 0.0]), torch.zeros_like(X))


def test_estimates_are_the_mean_of_their_samples() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    points = rand(5, 3)
    mean = hutchinson_laplacian(net, points, probes=6, seed=4).value
    torch.testing.assert_close(laplacian(net, points, method="hutchinson", probes=6, seed=4), mean, rtol=1e-12, atol=0)
