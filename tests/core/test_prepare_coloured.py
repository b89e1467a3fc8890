"""Prepared Hessians by colours: right at other points and for other values, in the bytes that are foretold."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from prepare_fakes import every
from sparse_cases import CASES, F64, arrowhead, grid, point, rosenbrock
from torch import Tensor

import hograd_core as h
from hograd_core import prepare
from hograd_core.sparse._sets import Sets, numbers


def coloured(f: Any, x: Tensor, preparation: str = "graph", **how: Any) -> Any:
    return prepare(h.hessian, f, x, method="coloured", preparation=preparation, **how)


UNPREPARED = {"bool and int": "reads values"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_case_at_other_points(name: str) -> None:
    f, n = CASES[name]
    p = prepare(h.sparse_hessian, f, point(n), preparation="graph")
    assert UNPREPARED.get(name, "") in (p.reason or "")
    assert (p.preparation == "eager") == (name in UNPREPARED), p.explain()
    assert p.preparation == ("eager" if name in UNPREPARED else "graph"), p.reason
    for seed in (0, 1):
        found = p(point(n, seed))
        assert found.layout is torch.sparse_csr
        torch.testing.assert_close(found.to_dense(), h.hessian(f, point(n, seed)), rtol=1e-10, atol=1e-10)
    assert p.traces == 1


@every
def test_results_are_symmetric_to_the_last_digit_and_of_their_own_memory(preparation: str) -> None:
    x = point(40)
    p, q = coloured(grid, x, preparation), prepare(h.sparse_hessian, grid, x, preparation=preparation)
    assert (p.preparation, q.preparation) == (preparation, preparation)
    for seed in (3, 4):
        first = p(point(40, seed))
        kept = first.clone()
        assert torch.equal(first, first.T)
        sparse = q(point(40, seed))
        sparse.values().zero_()
        sparse.col_indices().zero_()
        torch.testing.assert_close(q(point(40, seed)).to_dense(), kept, rtol=1e-12, atol=1e-12)
        p(x)
        assert torch.equal(first, kept)
    torch.testing.assert_close(first, h.hessian(grid, point(40, 4)), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("f", [rosenbrock, arrowhead])
def test_products_are_few_and_their_bytes_a_law(f: Any) -> None:
    """n² of the result, and its entries; colours times n before."""
    peaks = {n: coloured(f, point(n)).peak_bytes for n in (40, 80, 160)}
    entries = {n: (3 * n - 2) * 8 for n in peaks}
    assert peaks == {n: n * n * 8 + entries[n] for n in peaks}


class Hidden:
    """A class's attribute, which is not watched."""

    factor = 1.0


POSITIONS = torch.tensor([1, 2, 3, 4, 5, 0])
LINKS = torch.eye(6, dtype=F64)


@every
def test_a_pattern_that_rests_on_values_follows_them(preparation: str) -> None:
    at, links = POSITIONS.clone(), LINKS.clone()

    def moved(x: Tensor) -> Tensor:
        return (x * x[at]).sin().sum()

    def linked(x: Tensor) -> Tensor:
        return (links @ x).exp().sum()

    x = point(6)
    first, second = coloured(moved, x, preparation), coloured(linked, x, preparation)
    assert first.preparation == second.preparation == preparation
    for _ in range(2):
        torch.testing.assert_close(first(x), h.hessian(moved, x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(second(x), h.hessian(linked, x), rtol=1e-10, atol=1e-10)
        at.copy_(torch.tensor([3, 3, 1, 0, 2, 2]))
        links.add_(0.25)
    assert first.traces == second.traces == 1


def test_positions_that_x_itself_decides() -> None:
    def largest(x: Tensor) -> Tensor:
        return (x * x[x.argmax().view(1)]).square().sum()

    x = point(5)
    p = coloured(largest, x)
    assert p.preparation == "graph"
    for y in (x, -x, x.roll(1)):
        torch.testing.assert_close(p(y), h.hessian(largest, y), rtol=1e-10, atol=1e-10)


def test_positions_that_are_arguments() -> None:
    def f(x: Tensor, at: Tensor) -> Tensor:
        return (x * x[at]).square().sum()

    p = coloured(f, point(6), args=(POSITIONS,))
    for at in (POSITIONS, POSITIONS.flip(0), torch.zeros(6, dtype=torch.int64)):
        torch.testing.assert_close(p(point(6, 1), args=(at,)), h.hessian(lambda x, at=at: f(x, at), point(6, 1)))
    assert p.traces == 1


def test_what_makes_a_new_trace_finds_the_pattern_anew() -> None:
    span = 1
    f = lambda x: (x[span:] * x[:-span]).square().sum()  # noqa: E731
    p = prepare(h.sparse_hessian, f, point(7), preparation="graph")
    assert p(point(7))._nnz() == 7 + 2 * 6
    span = 3
    torch.testing.assert_close(p(point(7)).to_dense(), h.hessian(f, point(7)))
    assert (p(point(7))._nnz(), p.traces) == (7 + 2 * 4, 2)
    assert p(point(9))._nnz() == 9 + 2 * 6


def test_a_pattern_that_lacks_an_entry_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagonal(trace: Any) -> Sets:
        return Sets(numbers(trace.n + 1), numbers(trace.n), trace.n)

    monkeypatch.setattr("hograd_core.sparse._trace.Trace.pattern", diagonal)
    p = coloured(rosenbrock, point(8))
    assert p.preparation == "eager"
    assert p.reason is not None
    assert "differs from the eager method" in p.reason
    torch.testing.assert_close(p(point(8)), h.hessian(rosenbrock, point(8)))


def test_values_that_are_not_finite_are_those_of_the_eager_method() -> None:
    def f(x: Tensor) -> Tensor:
        return x.pow(1.5).sum() + (x[POSITIONS[:3]] * x[:3]).sum()

    p = coloured(f, point(6).abs())
    x = torch.tensor([0.0, 1, 2, 3, 4, 5], dtype=F64)
    with pytest.warns(h.NotFiniteWarning):
        found = p(x)
    with pytest.warns(h.NotFiniteWarning):
        true = h.hessian(f, x, method="coloured")
    torch.testing.assert_close(found, true, equal_nan=True)


def test_results_of_many_megabytes_lie_in_fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("hograd_core.prepare._coloured"), "_FRESH", 1)
    p = coloured(rosenbrock, point(30))
    results = [p(point(30, s)) for s in (0, 1)]
    for seed, found in enumerate(results):
        torch.testing.assert_close(found, h.hessian(rosenbrock, point(30, seed)))
    results[0].zero_()
    assert bool(results[1].any())


def test_every_so_many_calls_a_sparse_result_is_held_against_the_eager_one() -> None:
    def f(x: Tensor) -> Tensor:
        return (x**2).sum() * float(str(vars(Hidden)["factor"]))

    p = prepare(h.sparse_hessian, f, point(5), preparation="graph", check_every=1)
    torch.testing.assert_close(p(point(5)).to_dense(), 2 * torch.eye(5, dtype=F64))
    Hidden.factor = 3.0
    try:
        with pytest.raises(h.VerificationError, match="differs"):
            p(point(5))
    finally:
        Hidden.factor = 1.0
