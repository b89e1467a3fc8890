"""Prepared kernels: bound products, exact peaks, threads, many calls, solvers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import normal
from hograd_bench.metrics._allocations import trace
from prepare_fakes import V, X, close, dispatched, every, needs_compiler, network
from torch import Tensor

import hograd_core as h
from hograd_core import prepare
from hograd_core.curvature import HessianOperator, extreme_eigenpairs
from hograd_core.solvers import newton_cg


@every
def test_bound_products(preparation: str) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation=preparation)
    x = X.clone()
    b = p.bind(x)
    directions = normal(5, 8, seed=12)
    assert close(b(V), h.hvp(f, x, V))
    whole = b(directions, in_dims=0)
    assert close(whole, torch.stack([h.hvp(f, x, v) for v in directions]))
    assert not any(binding is None for binding in b.bindings.values())
    with torch.no_grad():
        x.mul_(0.5)
    assert close(b(V), h.hvp(f, x, V))
    assert close(b(directions, in_dims=0), torch.stack([h.hvp(f, x, v) for v in directions]))
    assert b(directions[:0], in_dims=0).shape == (0, 8)


SCALARS = 64
"""Bytes that operations take for numbers among their arguments, which no graph tells."""


def sized(n: int) -> Callable[[Tensor], Tensor]:
    a, b = normal(n, n, seed=2), normal(n, n, seed=3)
    return lambda x: ((x @ a).tanh() @ b).tanh().square().sum()


def peak(operator: Any, n: int, **how: Any) -> int:
    found = prepare(operator, sized(n), normal(n), preparation="graph", **how).peak_bytes
    assert found is not None
    return found


@pytest.mark.slow
def test_peak_bytes_obey_an_exact_law() -> None:
    small = [peak(h.hvp, n) for n in (8, 16, 32)]
    assert small[2] - small[1] == 2 * (small[1] - small[0])
    assert peak(h.hvp, 128) == small[0] + 15 * (small[1] - small[0])
    # a n² + b n through two sizes foretells the third, and one that is computed by blocks.
    at = {n: peak(h.hessian, n) for n in (8, 16, 32, 256)}
    quadratic = (at[16] / 16 - at[8] / 8) / 8
    linear = at[8] / 8 - 8 * quadratic
    assert [n * (quadratic * n + linear) for n in (32, 256)] == [at[32], at[256]]


@pytest.mark.parametrize(
    ("how", "most"), [({}, 3.0), ({"memory": int(1.5 * 8 * 256**2)}, 1.5), ({"chunk_size": 16}, 1.2)]
)
def test_a_hessian_takes_little_beside_itself_by_the_allocators_count(how: dict[str, Any], most: float) -> None:
    f, x = sized(256), normal(256)
    p = prepare(h.hessian, f, x, preparation="graph", **how)
    assert p.peak_bytes is not None
    assert p.peak_bytes <= most * 8 * 256**2
    assert close(p(x), h.hessian(f, x))
    assert 0 <= trace(lambda: p(x)).peak_bytes - p.peak_bytes <= SCALARS


@needs_compiler
@pytest.mark.slow
def test_peak_bytes_of_compiled_products_obey_an_exact_law() -> None:
    """By the allocator's count: a n + b through two sizes foretells eight times the larger."""
    at = {}
    for n in (16, 32, 256):
        p, x, v = prepare(h.hvp, sized(n), normal(n), preparation="compiled"), normal(n), normal(n, seed=1)
        assert p.preparation == "compiled", p.explain()
        p(x, v)
        at[n] = trace(lambda p=p, x=x, v=v: p(x, v)).peak_bytes
    slope = (at[32] - at[16]) / 16
    assert slope >= 8, "its result, in float64"
    assert at[256] == at[32] + slope * 224


def test_products_take_what_is_foretold() -> None:
    p = prepare(h.hvp, sized(64), normal(64), preparation="graph")
    x, v = normal(64), normal(64, seed=1)
    assert p.peak_bytes is not None
    assert 0 <= trace(lambda: p(x, v)).peak_bytes - p.peak_bytes <= SCALARS


def test_what_is_written_over_is_the_graphs_own() -> None:
    w = normal(8, 8, seed=4)
    f = lambda x: ((x @ w).exp() * x + w[0]).square().sum() + (w.t() @ x).cos().sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    before = [t.clone() for t in (X, V, w)]
    first, bound = p(X, V), b(V)
    assert torch.equal(p(X, V), first)
    assert torch.equal(b(V), bound)
    assert all(torch.equal(t, then) for t, then in zip((X, V, w), before, strict=True))
    assert any(name.endswith("_.Tensor") for name in p.operations or {})


def test_a_bound_product_does_less_than_a_whole_one() -> None:
    p = prepare(h.hvp, network(), X, preparation="graph")
    b = p.bind(X)
    b(V)
    binding = b.bindings[None]
    assert binding is not None
    assert dispatched(lambda: binding.run(V)) < dispatched(lambda: p(X, V))


def test_bound_products_see_updated_weights() -> None:
    w = normal(8, 8, seed=5)
    f = lambda x: (x @ w).tanh().square().sum()  # noqa: E731
    b = prepare(h.hvp, f, X, preparation="graph").bind(X)
    b(V)
    w.mul_(0.5)
    assert close(b(V), h.hvp(f, X, V))
    w.data = normal(8, 8, seed=6)
    assert close(b(V), h.hvp(f, X, V))
    w.data = w.data.t()  # the same memory
    assert close(b(V), h.hvp(f, X, V))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_bound_products_see_fused_steps(optimizer: Any) -> None:
    """Which write without counting it as an update of what they write."""
    w = normal(8, 8, seed=2).requires_grad_()
    f = lambda x: (w @ x).tanh().square().sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    before = b(V)
    w.grad = torch.ones_like(w)
    optimizer([w], lr=0.1, fused=True).step()
    assert close(b(V), h.hvp(f, X, V))
    assert not close(b(V), before)
    p.close()
    for v, more in ((V, {}), (V.new_empty(0, 8), {"in_dims": 0})):
        with pytest.raises(RuntimeError, match="closed"):
            b(v, **more)


def test_what_is_not_read_again_is_not_passed_again() -> None:
    w, c = normal(8, 8, seed=5), normal(8, seed=6)
    b = prepare(h.hvp, lambda x: (x @ w).tanh().square().sum() + (c * x).sum(), X, preparation="graph").bind(X)
    b(V)
    binding = b.bindings[None]
    assert binding is not None
    places = [t.data_ptr() for t in binding.rest]
    assert w.data_ptr() in places
    assert not {X.data_ptr(), c.data_ptr()} & {*places}


def test_a_point_made_in_inference_mode_is_read_anew() -> None:
    """Such tensors do not tell of updates."""
    f = network()
    with torch.inference_mode():
        x = X.clone()
    b = prepare(h.hvp, f, X, preparation="graph").bind(x)
    assert close(b(V), h.hvp(f, X, V))
    with torch.inference_mode():
        x.mul_(0.5)
    assert close(b(V), h.hvp(f, X * 0.5, V))


@every
def test_threads(preparation: str) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation=preparation)
    b = p.bind(X)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(30):
            x, v = normal(8, seed=seed + i), normal(8, seed=seed + i + 1)
            if not (close(p(x, v), h.hvp(f, x, v)) and close(b(v), h.hvp(f, X, v))):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.slow
def test_nothing_grows_over_many_calls() -> None:
    p = prepare(h.hvp, network(), X, preparation="graph")
    b = p.bind(X)
    p(X, V), b(V)

    def alive() -> int:
        gc.collect()
        return len(gc.get_objects())

    for _ in range(10):
        p(X, V), b(V)
    before = alive()
    for _ in range(10_000):
        p(X, V), b(V)
    assert alive() - before < 50


def test_solvers_use_bound_products() -> None:
    f = lambda x: network()(x) + x.pow(4).sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    for x in (X, X + 0.1):
        step = newton_cg(f, x, damping=1.0, preparation=p).step
        assert torch.allclose(step, newton_cg(f, x, damping=1.0).step, rtol=1e-5)
    assert p.traces == 1
    with HessianOperator(f, X, preparation="graph", damping=0.5) as operator:
        assert close(operator @ V, h.hvp(f, X, V) + 0.5 * V)
        assert torch.allclose(
            extreme_eigenpairs(operator).values, extreme_eigenpairs(HessianOperator(f, X, damping=0.5)).values
        )
    with pytest.raises(RuntimeError, match="after close"):
        operator @ V
    with pytest.raises(ValueError, match="preparation: got a kernel of another function"):
        HessianOperator(network(), X, preparation=p)
    inside = lambda y: (HessianOperator(f, y, preparation=p) @ V).sum()  # noqa: E731
    assert close(h.gradient(inside, X), h.gradient(lambda y: h.hvp(f, y, V).sum(), X))
