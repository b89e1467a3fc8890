"""Curvature inside a larger derivative, and of models whose layers PyTorch cannot differentiate as asked."""

from __future__ import annotations

import pytest
import torch
from core_fakes import classification, normal
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import (
    HessianOperator,
    kfac,
)


def test_traces_inside_a_larger_derivative() -> None:
    x = normal(3, seed=6)
    for method in ("columns", "hutchinson"):
        # Diagonal Hessian: Hutchinson's estimate is exact, by sign vectors.
        found = hg.gradient(lambda y, m=method: hg.hessian_trace(lambda z: (z**4).sum(), y, method=m), x)
        torch.testing.assert_close(found, 24 * x)
    with pytest.raises(hg.UnsupportedError, match="cannot be differentiated further"):
        hg.gradient(lambda y: hg.hessian_extreme_eigenvalues(lambda z: (z**4).sum(), y, method="lanczos").sum(), x)
    found = hg.gradient(lambda y: hg.hessian_extreme_eigenvalues(lambda z: (z**4).sum(), y).sum(), x)
    extreme = torch.zeros_like(x).scatter(0, (x**2).argsort()[[0, -1]], 1)
    torch.testing.assert_close(found, 24 * x * extreme)


def test_the_operator_watches_f() -> None:
    layer = nn.Linear(2, 1).double()
    with pytest.raises(ValueError, match="does not depend on its argument"):
        HessianOperator(lambda w: layer(normal(3, 2)).square().sum(), layer.weight)


@pytest.mark.parametrize(
    "name", ["fisher_matrix", "fisher_diagonal", "empirical_fisher_diagonal", "gauss_newton_matrix"]
)
def test_curvature_of_a_model_inside_a_larger_derivative(name: str) -> None:
    """Derivative by the scale of the inputs, against a difference of values."""
    module, loss, inputs, targets = classification()
    at, step = torch.tensor(0.7, dtype=torch.float64), 1e-5
    for method, record in hg.operators()[name].methods.items():
        if not record.exact:
            continue

        def f(t: Tensor, method: str = method) -> Tensor:
            value: Tensor = hg.operators()[name](module, loss, inputs * t, targets, method=method).square().sum()
            return value

        difference = (f(at + step) - f(at - step)) / (2 * step)
        torch.testing.assert_close(hg.gradient(f, at), difference, rtol=1e-6, atol=1e-8)
    with pytest.raises(hg.UnsupportedError, match="kfac"):
        hg.gradient(lambda t: kfac(module, loss, inputs * t, targets).diagonal().sum(), at)


class HalfFrozen(nn.Module):
    """Its first layer is computed under no_grad: a constant, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.first(x).tanh()
        return self.last(hidden * 1.0)


class Inverse(nn.Module):
    """Holds cholesky_inverse, whose forward formula is wrong at order 1 in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Parameter(normal(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.root @ self.root.T + 3 * torch.eye(3, dtype=torch.float64)
        return x @ torch.cholesky_inverse(torch.linalg.cholesky(matrix))


@pytest.mark.parametrize("name", ["gauss_newton", "fisher"])
@pytest.mark.parametrize("method", ["jvp_vjp", "double_vjp"])
@pytest.mark.parametrize("module", [HalfFrozen(), Inverse()])
def test_products_agree_with_their_matrix_or_refuse(name: str, method: str, module: nn.Module) -> None:
    inputs = normal(5, 3)
    targets = normal(5, module(inputs).shape[1], seed=4)
    arguments = (module, nn.MSELoss(), inputs, targets)
    v = normal(sum(p.numel() for p in module.parameters()), seed=5)
    expected = getattr(hg, f"{name}_matrix")(*arguments) @ v
    product = getattr(hg, f"{name}_vector_product")
    if method == "jvp_vjp" and isinstance(module, Inverse):
        with pytest.raises(hg.UnsupportedError, match="cholesky_inverse"):
            product(*arguments, v, method=method)
        torch.testing.assert_close(product(*arguments, v, method=method, repair=True), expected)
    else:
        torch.testing.assert_close(product(*arguments, v, method=method), expected)


def test_a_layer_that_runs_under_no_grad_has_no_factor() -> None:
    module = HalfFrozen()
    first, last = kfac(module, nn.MSELoss(), normal(5, 3), normal(5, 2, seed=4)).blocks
    assert not first.outputs.any()
    assert last.outputs.any()
