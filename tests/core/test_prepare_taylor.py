"""Prepared Taylor passes: directional derivatives of any order, Laplacians of fields; products of few rows."""

from __future__ import annotations

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import V, X, close, every, network
from torch import Tensor, nn

import hograd_core as h
from hograd_core import prepare
from hograd_core.applications.pinn import bilaplacian, laplacian, partial_derivatives


def field(d: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_a_weight_meets_all_coefficients_in_one_product(order: int) -> None:
    p = prepare(h.directional_derivative, network(), X, order=order, method="taylor", preparation="graph")
    assert (p.preparation, p.reason) == ("graph", None)
    assert p.operations is not None
    assert p.operations["aten.mm.default"] == 2  # of two layers
    x = normal(8, seed=3)
    assert close(p(x, V), h.directional_derivative(network(), x, V, order, method="taylor"))


@pytest.mark.slow
@every
@pytest.mark.parametrize("method", ["collapsed_taylor", "taylor"])
def test_laplacians_see_updates_and_new_points(method: str, preparation: str) -> None:
    u, points = field(), normal(6, 3, seed=1)
    p = prepare(laplacian, u, points, method=method, preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    assert close(p(points), laplacian(u, points))
    with torch.no_grad():
        u[0].weight.mul_(1.5)
    u[2].weight.data = u[2].weight.data * 0.5
    other = normal(6, 3, seed=2)
    assert close(p(other), laplacian(u, other))
    assert p.traces == 1


def test_rows_that_nobody_reads_are_not_multiplied() -> None:
    """Of the last layer the highest coefficients alone: their value is not the result."""
    u, points = field(), normal(6, 3, seed=1)
    p = prepare(laplacian, u, points, method="collapsed_taylor", preparation="graph")
    assert p.operations is not None
    # Value and directions of the first layer, both and the sum of the second, the sum of the third.
    assert p.operations["aten.mm.default"] == 2 + 2 + 1
    assert p.operations["aten.cat.default"] == 1
    assert close(p(points), laplacian(u, points))


@every
def test_a_field_that_comes_to_tell_copies_of_a_point_apart(preparation: str) -> None:
    """All directions go through u in one batch of copies; each call looks whether u still takes copies for the same."""
    points, apart, x, v = normal(6, 3, seed=1), torch.zeros((), dtype=F64), normal(16, seed=2), normal(16, seed=3)

    def loss(x: Tensor) -> Tensor:
        def u(z: Tensor) -> Tensor:
            return torch.tanh(z @ x[:12].view(3, 4)) @ x[12:] * (1 + apart * torch.arange(len(z)))

        return laplacian(u, points, method="taylor").square().mean()

    p = prepare(h.hvp, loss, x, preparation=preparation)
    bound = p.bind(x)
    whole = prepare(h.hessian, loss, x, preparation=preparation)
    assert p.reason is None
    assert whole.reason is None
    assert close(whole(x), h.hessian(loss, x))
    before = p(x, v)
    assert close(before, h.hvp(loss, x, v))
    apart.fill_(1)
    expected = h.hvp(loss, x, v)
    assert not close(before, expected)
    assert close(p(x, v), expected)
    assert close(bound(v), expected)
    assert close(p.bind(x)(torch.stack([v, -v]), in_dims=0), torch.stack([expected, -expected]))
    assert close(whole(x), h.hessian(loss, x))
    late = prepare(h.hessian, loss, x, preparation=preparation)
    assert late.preparation == "eager"
    assert "does not hold near x" in (late.reason or "")


def test_a_bilaplacian_is_prepared() -> None:
    u, points = field(2), normal(4, 2, seed=1)
    p = prepare(bilaplacian, u, points, method="collapsed_taylor", preparation="graph")
    assert p.reason is None
    assert close(p(points), bilaplacian(u, points))


def test_what_is_drawn_or_no_function_of_points_alone_is_not_prepared() -> None:
    p = prepare(laplacian, field(), normal(4, 3, seed=1), method="hutchinson", preparation="graph")
    assert p.preparation == "eager"
    assert "random" in str(p.reason)
    with pytest.raises(TypeError, match="partial_derivatives is not one of a function"):
        prepare(partial_derivatives, field(), normal(4, 3, seed=1))


@every
@pytest.mark.parametrize(("rows", "k", "n"), [(5, 13, 11), (11, 13, 11), (30, 7, 5)])
def test_products_of_several_rows(rows: int, k: int, n: int, preparation: str) -> None:
    """Both ways round, of sizes that are no multiple of a vector's length; of many rows, a small matrix."""
    weight = normal(k, n, seed=5)

    def f(x: Tensor) -> Tensor:
        return ((x.view(rows, k) @ weight).tanh() ** 2).sum()

    x = normal(rows * k, seed=6)
    p = prepare(h.gradient, f, x, preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    assert close(p(x), h.gradient(f, x))


@every
def test_tensors_made_in_f_are_constants(preparation: str) -> None:
    numbers = [float(i % 5) for i in range(24)]

    def f(x: Tensor) -> Tensor:
        return (x * torch.tensor(numbers, dtype=x.dtype)).sin().sum()

    x = normal(24, seed=6)
    p = prepare(h.gradient, f, x, preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    assert close(p(x), h.gradient(f, x))
