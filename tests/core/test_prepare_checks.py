"""Prepared kernels of what PyTorch checks by reading values: taken as it is near x, looked at in each call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import COMPILING, V, X, close, every
from torch import Tensor, distributions
from torch.nn import functional

import hograd_core as h
from hograd_core import prepare
from hograd_core.prepare import _build, assume

Y = normal(4, seed=5)


@pytest.fixture(autouse=True)
def _validation() -> Iterator[None]:
    """Distributions check what they are given: what torch.compile runs first in a process turns that off for good."""
    before = distributions.Distribution._validate_args
    distributions.Distribution.set_default_validate_args(True)
    yield
    distributions.Distribution.set_default_validate_args(before)


def likelihood(x: Tensor) -> Tensor:
    """Of a scale that is x itself: where it is not positive, PyTorch raises."""
    return -distributions.Normal(x[:4], x[4:]).log_prob(Y).sum()


INSIDE = X.abs() + 0.5
OUTSIDE = INSIDE.index_fill(0, torch.tensor([6]), -1.0)

CHECKED: dict[str, Callable[[Tensor], Tensor]] = {
    "categories": lambda x: -distributions.Categorical(logits=x.view(2, 4)).log_prob(torch.tensor([0, 3])).sum(),
    "covariance": lambda x: torch.cov(x.view(2, 4)).square().sum(),
    "divergence": lambda x: distributions.kl_divergence(
        distributions.Gamma(x[:4].exp(), x[4:].exp()), distributions.Gamma(1.0, 2.0)
    ).sum(),
    "gaussian_nll_loss": lambda x: functional.gaussian_nll_loss(x[:4], Y, x[4:].exp()),
    "many normal": lambda x: -distributions.MultivariateNormal(x[:4], torch.diag(x[4:].exp())).log_prob(Y),
    "normal": lambda x: -distributions.Normal(x[:4], x[4:].exp()).log_prob(Y).sum(),
    "products": lambda x: x.new_ones(2).scatter_reduce(0, torch.arange(8) % 2, x.sin(), "prod").sum(),
}


@pytest.mark.parametrize("f", CHECKED.values(), ids=CHECKED)
def test_graphs(f: Callable[[Tensor], Tensor]) -> None:
    for operator, given in ((h.hvp, (X, V)), (h.hessian, (X,))):
        p = prepare(operator, f, X, preparation="graph")
        assert p.preparation == "graph", p.explain()
        assert close(p(*given), operator(f, *given))
    p = prepare(h.hvp, f, X, preparation="graph")
    assert not any("_is_a" in name for name in p.operations or ())  # inductor would call it
    bound = p.bind(X)
    directions = torch.stack([V, X])
    assert close(bound(V), h.hvp(f, X, V))
    assert close(bound(directions, in_dims=0), torch.stack([h.hvp(f, X, v) for v in directions]))
    assert len(bound.bindings) == 2
    assert None not in bound.bindings.values()


@every
def test_what_does_not_hold_is_refused_as_it_is_without_preparation(preparation: str) -> None:
    product, matrix = (
        prepare(operator, likelihood, INSIDE, preparation=preparation) for operator in (h.hvp, h.hessian)
    )
    assert (product.preparation, matrix.preparation) == (preparation, preparation), product.explain()
    x = INSIDE.clone()
    bound = product.bind(x)
    calls: list[Callable[[], Tensor]] = [lambda: product(x, V), lambda: bound(V), lambda: matrix(x) @ V]
    for _ in range(2):
        for call in calls:
            assert close(call(), h.hvp(likelihood, INSIDE, V))
        x.copy_(OUTSIDE)
        for call in calls:
            with pytest.raises(ValueError, match="GreaterThan"):
                call()
        x.copy_(INSIDE)


@every
def test_a_formula_that_pytorch_chooses_by_values_is_not_taken_for_others(preparation: str) -> None:
    positions = torch.arange(8) % 2

    def f(x: Tensor, y: Tensor) -> Tensor:
        return y.new_ones(2).scatter_reduce(0, positions, x.sin() * y, "prod").sum()

    ones = torch.ones_like(X)
    for operator, given in ((h.hvp, (X, V)), (h.hessian, (X,))):
        p = prepare(operator, f, X, args=(ones,), preparation=preparation)
        assert p.preparation == preparation, p.explain()
        for zeros in ([], [2], [2, 3], []):
            y = ones.index_fill(0, torch.tensor(zeros, dtype=torch.int64), 0.0)
            assert close(p(*given, args=(y,)), operator(lambda x, y=y: f(x, y), *given)), zeros
        with pytest.raises(RuntimeError, match=">1 zeros in src are scattered to the same position"):
            p(*given, args=(ones.index_fill(0, torch.tensor([2, 4]), 0.0),))
        assert p.traces == 1


def test_ones_own_branches_are_not_taken_to_stay() -> None:
    p = prepare(h.hvp, lambda x: x.square().sum() if (x < 9).all() else x.sum(), X, preparation="graph")
    assert p.preparation == "eager"
    assert "reads values" in (p.reason or "")


@pytest.mark.parametrize("operator", [h.hvp, h.hessian])
def test_what_holds_at_x_alone(operator: Callable[..., Tensor]) -> None:
    x = torch.full((8,), 0.125, dtype=F64)
    f = lambda x: -distributions.Dirichlet(torch.full((8,), 2.0, dtype=F64)).log_prob(x)  # noqa: E731
    p = prepare(operator, f, x, preparation="graph")
    assert p.preparation == "eager"
    assert "near x, where kernels are compared with the eager method, ValueError" in (p.reason or "")
    assert prepare(operator, f, x, preparation="eager").reason is None
    with pytest.raises(ValueError, match="Simplex"):
        prepare(operator, f, 2 * x, preparation="graph")


def test_a_kernel_that_would_not_be_compared_is_not_used() -> None:
    """Where it is compared, the eager method would be held against itself."""
    f = lambda x: x.prod() * (1 if assume((x == X).all()) else 2)  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    assert p.preparation == "eager"
    assert p.reason == f"graph: {_build.NOT_NEAR}"
    assert torch.equal(p(X, V), h.hvp(f, X, V))


@pytest.mark.parametrize("preparation", COMPILING)
def test_another_process_looks_too(preparation: str, tmp_path: Path) -> None:
    code = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
import hograd_core as h
from test_prepare_checks import INSIDE, OUTSIDE, V, likelihood
from prepare_fakes import close
for operator, given in ((h.hvp, (V,)), (h.hessian, ())):
    p = h.prepare(operator, likelihood, INSIDE, preparation={preparation!r})
    assert p.preparation == {preparation!r}, p.explain()
    calls = [p] if given == () else [p, lambda x, v: p.bind(x)(v)]
    for call in calls:
        assert close(call(INSIDE, *given), operator(likelihood, INSIDE, *given))
        try:
            call(OUTSIDE, *given)
        except ValueError as error:
            assert "GreaterThan" in str(error)
        else:
            raise AssertionError
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True)
