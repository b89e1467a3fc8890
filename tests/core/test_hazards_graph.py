"""The walk over what f has recorded finds every node, once, whoever else holds it, and at every level of torch.func."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hograd_core as h
from hograd_core import UnsupportedError
from hograd_core._functional import Functional
from hograd_core.hazards import _graph

F64 = torch.float64
X = torch.linspace(0.1, 0.6, 6, dtype=F64)


class Counted(set[type]):
    """Types, all of them harmless; counts the nodes that were walked."""

    met = 0

    def issuperset(self, kinds: Iterable[Any]) -> bool:
        self.met += len([*kinds])
        return True


def _shared(x: Tensor) -> Tensor:
    for _ in range(12):  # 2^12 ways through the graph
        x = x.sin() * x.cos()
    return x.sum()


def _chain(x: Tensor) -> Tensor:
    return x.sin().cos().tanh().sum()


def _joined(x: Tensor) -> Tensor:
    return torch.stack([x, x.sin(), x.sin() + x]).sum()


@pytest.mark.parametrize("f", [_shared, _chain, _joined])
@pytest.mark.parametrize("held", [False, True])
def test_every_node_is_walked_once(f: Callable[[Tensor], Tensor], held: bool) -> None:
    point = X.clone().requires_grad_()
    result = f(point)
    every = _graph.nodes([result.grad_fn])
    inner = sum(type(node) is not _graph.LEAF for node in every)
    if not held:
        del every  # and with it the objects of all nodes but the last
    by = Counted()
    assert _graph.harmless([result.grad_fn], point, by)
    assert by.met == inner


def test_of_several_results_each_node_is_walked_once() -> None:
    point = X.clone().requires_grad_()
    middle = point.sin()
    roots = [middle.cos().grad_fn, middle.grad_fn, middle.tanh().grad_fn]
    by = Counted()
    assert _graph.harmless(roots, point, by)
    assert by.met == 3


def test_it_hangs_on_the_argument_or_not() -> None:
    point, other = X.clone().requires_grad_(), X.clone().requires_grad_()
    by = Counted()
    assert _graph.harmless([(point * other).sum().grad_fn], point, by)
    assert _graph.harmless([(other * point).sum().grad_fn], point, by)
    assert not _graph.harmless([other.sin().sum().grad_fn], point, by)
    assert _graph.harmless([other.sin().sum().grad_fn], None, by)


def _wrong(x: Tensor) -> Tensor:
    return torch._weight_norm(x.reshape(2, 3), x[:3].reshape(1, 3), 1).sin().sum()


def test_a_node_that_somebody_holds_is_looked_at_too() -> None:
    held: list[Any] = []

    def f(x: Tensor) -> Tensor:
        y = torch._weight_norm(x.reshape(2, 3), x[:3].reshape(1, 3), 1)
        held.extend([y.grad_fn, y.grad_fn.next_functions])
        return y.sin().sum()

    for _ in range(2):
        with pytest.raises(UnsupportedError, match="weight_norm"):
            h.hvp(f, X, X)


@pytest.mark.parametrize("tail", [_shared, _chain, _joined])
def test_what_is_wrong_is_found_behind_what_is_shared(tail: Callable[[Tensor], Tensor]) -> None:
    h.hvp(lambda x: tail(x), X, X)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(lambda x: tail(torch._weight_norm(x.reshape(2, 3), x[:3].reshape(1, 3), 1)), X, X)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(lambda x: tail(x) + _wrong(x), X, X)


@pytest.mark.parametrize("method", ["double_backward", "vjp_of_grad", "jvp_of_grad", "grad_of_jvp", "functional_hvp"])
def test_a_module_that_was_right_is_walked_no_second_time(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a refusal needs is gathered once, when the types of nodes are met first."""
    net = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def f(x: Tensor) -> Tensor:
        return net(x).square().sum()

    first = h.hvp(f, X, X, method=method)
    monkeypatch.setattr(_graph, "nodes", lambda *_: pytest.fail("gathered again"))
    assert torch.equal(h.hvp(f, X, X, method=method), first)


def test_a_layer_that_a_module_runs_at_some_values_only_is_found() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.tanh(self.first(x))
            return F.layer_norm(y, (6,)) if x.sum() < 0 else y

    net = Gated().double()

    def f(x: Tensor) -> Tensor:
        return net(x).pow(3).sum()

    for _ in range(2):
        h.derivative_vector_product(f, X, X, 3)
    with pytest.raises(UnsupportedError, match="layer_norm"):
        h.derivative_vector_product(f, -X, X, 3)


@pytest.mark.parametrize("method", ["double_backward", "vjp_of_grad", "jvp_of_grad", "grad_of_jvp"])
def test_whether_a_module_uses_its_own_parameters_is_asked_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters may require grad at an outer level only."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    f, x = h.from_module(net, lambda a, b: (a - b).square().mean(), (X[:4].reshape(2, 2), X[4:].reshape(2, 1)))
    first = h.hvp(f, x, x, method=method)
    monkeypatch.setattr(Functional, "_refuse_own", lambda *_: pytest.fail("asked again"))
    assert torch.equal(h.hvp(f, x, x, method=method), first)
