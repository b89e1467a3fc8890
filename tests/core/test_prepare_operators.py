"""Operators, solvers and spectra on prepared products: results are the eager ones, of kernels that are made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import X, close, network
from torch import Tensor

import hograd_core as h
from hograd_core import prepare
from hograd_core.prepare import Bound
from hograd_core.solvers import minimize_cubic_newton, minimize_newton


def bowl() -> Callable[[Tensor], Tensor]:
    """A network, and enough beside it that its Hessian is positive definite."""
    f = network()
    return lambda x: f(x) + x.pow(4).sum() + x.square().sum()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by an entry at every product that a bound kernel computes."""
    found: list[int] = []
    call = Bound.__call__

    def counting(self: Bound, *given: Any, **how: Any) -> Tensor:
        found.append(0)
        return call(self, *given, **how)

    monkeypatch.setattr(Bound, "__call__", counting)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "how"),
    [
        (h.hessian_trace, {}),
        (h.hessian_trace, {"method": "hutchinson", "seed": 0}),
        (h.hessian_trace, {"method": "hutch_plus_plus", "seed": 0, "products": 9}),
        (h.hessian_trace, {"method": "xtrace", "seed": 0, "products": 8}),
        (h.hessian_diagonal, {"method": "columns"}),
        (h.hessian_diagonal, {"method": "hutchinson", "seed": 0}),
        (h.hessian_extreme_eigenvalues, {"method": "lanczos"}),
        (h.hessian_extreme_eigenvalues, {"method": "lobpcg"}),
        (h.hessian_spectral_density, {"method": "slq", "seed": 0}),
        (h.newton_cg_step, {}),
        (h.newton_cg_step, {"method": "jvp_of_grad"}),
        (h.cubic_newton_step, {"method": "lanczos"}),
    ],
)
def test_operators_are_the_eager_ones(operator: Any, how: dict[str, Any], taken: list[int]) -> None:
    f = bowl()
    method = {"method": "jvp_of_grad"} if how.get("method") == "jvp_of_grad" else {}
    p = prepare(h.hvp, f, X, preparation="graph", **method)
    for preparation in ("graph", p):
        taken.clear()
        result, expected = operator(f, X, preparation=preparation, **how), operator(f, X, **how)
        if operator is h.cubic_newton_step:
            result, expected = result.step, expected.step
        assert torch.allclose(result, expected, rtol=1e-7, atol=1e-9)
        assert len(taken) > 3
    assert p.traces == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "method"), [(h.hessian_diagonal, "forward_over_forward"), (h.hessian, "vmap_hvp")]
)
def test_bare_numbers_in_a_trace_of_forward_mode(operator: Any, method: str) -> None:
    def f(x: Tensor) -> Tensor:
        return 3 * torch.exp(-0.5 * ((x - 1) / 2).pow(2)).sum() - x.std()

    x = normal(6, seed=3)
    p = prepare(operator, f, x, method=method, preparation="graph")
    assert p.preparation == "graph", p.explain()
    assert torch.allclose(p(x), operator(f, x), rtol=1e-10)


def test_eigenvalues_of_a_prepared_hessian() -> None:
    f = bowl()
    expected = h.hessian_extreme_eigenvalues(f, X, method="dense")
    for preparation in ("graph", *(prepare(o, f, X, preparation="graph") for o in (h.hessian, h.hvp))):
        found = h.hessian_extreme_eigenvalues(f, X, method="dense", preparation=preparation)
        assert torch.allclose(found, expected, rtol=1e-7, atol=1e-9)
    other = prepare(h.hessian, lambda x: x.pow(4).sum(), X, preparation="graph")
    with pytest.raises(ValueError, match="kernel of another function"):
        h.hessian_extreme_eigenvalues(f, X, method="dense", preparation=other)


def test_structures_by_name() -> None:
    def f(x: dict[str, Tensor]) -> Tensor:
        return (x["a"].tanh() * x["b"]).square().sum() + x["a"].pow(4).sum()

    x = {"a": normal(3), "b": normal(3, seed=1)}
    assert close(h.hessian_trace(f, x, preparation="graph"), h.hessian_trace(f, x))
    assert close(h.hessian_diagonal(f, x, preparation="graph")["b"], h.hessian_diagonal(f, x)["b"])


def loss(w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-targets * (inputs @ w)).mean() + w.square().sum() / 8


BATCH = normal(12, 3), normal(12, seed=1).sign()


@pytest.mark.slow
@pytest.mark.parametrize("globalisation", ["line_search", "trust_region"])
def test_a_minimisation_traces_once(globalisation: str, taken: list[int]) -> None:
    w = torch.zeros(3, dtype=F64)
    expected = minimize_newton(loss, w, args=BATCH, globalisation=globalisation)
    p = prepare(h.hvp, loss, w, args=BATCH, preparation="graph")
    for preparation in ("graph", p):
        taken.clear()
        found = minimize_newton(loss, w, args=BATCH, globalisation=globalisation, preparation=preparation)
        assert (found.status, found.iterations, found.products) == ("converged", expected.iterations, expected.products)
        assert torch.allclose(found.x, expected.x, atol=1e-9)
        assert len(taken) >= found.products > found.iterations > 2
    assert p.traces == 1


def test_a_minimisation_over_a_structure() -> None:
    def f(x: dict[str, Tensor]) -> Tensor:
        return (x["a"] - 1).pow(4).sum() + (x["a"] * x["b"] - 2).square().sum()

    x = {"a": torch.full((2,), 2.0, dtype=F64), "b": torch.ones(2, dtype=F64)}
    found = minimize_newton(f, x, preparation="graph")
    assert found.status == "converged"
    assert torch.allclose(found.x["b"], minimize_newton(f, x).x["b"], atol=1e-6)


@pytest.mark.slow
def test_cubic_steps_trace_once(taken: list[int]) -> None:
    f, x = bowl(), X + 1
    expected = minimize_cubic_newton(f, x, step_method="lanczos")
    p = prepare(h.hvp, f, x, preparation="graph")
    found = minimize_cubic_newton(f, x, step_method="lanczos", preparation=p)
    assert (found.status, found.iterations) == ("converged", expected.iterations)
    assert torch.allclose(found.x, expected.x, atol=1e-6)
    assert len(taken) >= found.products > 0
    assert p.traces == 1


def test_refusals() -> None:
    other = prepare(h.hvp, network(), X, preparation="graph")
    for call in (h.hessian_trace, h.newton_cg_step, minimize_newton):
        with pytest.raises(ValueError, match="preparation: got a kernel of another function"):
            call(bowl(), X, preparation=other)
        with pytest.raises(ValueError, match="preparation: got 'fast', expected one of auto, eager, graph"):
            call(bowl(), X, preparation="fast")
    with pytest.raises(TypeError, match=r"preparation: not an option of cubic_newton_step\[dense\]"):
        minimize_cubic_newton(bowl(), X, preparation="graph")
