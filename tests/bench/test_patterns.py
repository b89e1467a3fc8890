"""What each pattern leaves behind, by the allocator's events; the leak adds up call by call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hograd_bench.metrics._allocations import trace
from hograd_bench.patterns import DIRECTIONS, kept_graph_gradient, several_products
from torch import Tensor

import hograd_core

N = 64
X = torch.linspace(-1, 1, N)
CLEAN = ("grad_create_graph", "retain_graph", "backward_create_graph_cleared")


def f(x: Tensor) -> Tensor:
    return x.sin().sin().sum()


def repeated(method: str, times: int) -> Callable[[], None]:
    def call() -> None:
        for _ in range(times):
            kept_graph_gradient(f, X, method=method)

    call()
    return call


@pytest.mark.parametrize("method", sorted(kept_graph_gradient.methods))
def test_every_pattern_gives_the_gradient(method: str) -> None:
    for g in (f, lambda x: (0 * x).sum(), lambda x: torch.ones(())):
        assert torch.equal(kept_graph_gradient(g, X, method=method), hograd_core.gradient(g, X))


def test_the_leak_adds_up() -> None:
    once, many = (trace(repeated("backward_create_graph", times)).retained_bytes for times in (1, 100))
    assert once >= 4 * N  # at least the gradient
    assert many == 100 * once


@pytest.mark.parametrize("method", CLEAN)
def test_the_others_leave_nothing(method: str) -> None:
    assert trace(repeated(method, 100)).retained_bytes == 0


@pytest.mark.parametrize("method", sorted(several_products.methods))
def test_several_products_are_those_of_the_hessian(method: str) -> None:
    x, v = X.double()[:6], torch.arange(6.0, dtype=torch.float64)
    found = several_products(f, x, v, method=method)
    true = hograd_core.reference.true_value("several_products", f, x, v)
    assert found.shape == (DIRECTIONS, 6)
    torch.testing.assert_close(found, true.value)
    torch.testing.assert_close(found, torch.stack([v.roll(i) for i in range(DIRECTIONS)]) @ hograd_core.hessian(f, x))
