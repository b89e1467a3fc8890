"""The guard remembers a function only where it can do nothing else the next time, and never by what the tape shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hograd_core as h
from hograd_core import UnsupportedError, _call
from hograd_core.hazards import _graph, _guard
from hograd_core.hazards._memory import sketch

F64 = torch.float64
X = torch.linspace(0.1, 0.6, 6, dtype=F64)
W = torch.linspace(-1.0, 1.0, 6, dtype=F64)
SWITCH = False
LAYERS: list[Callable[[Tensor], Tensor]] = []


def wrong(x: Tensor) -> Tensor:
    """PyTorch differentiates the one wrongly by double backward, the other by reverse over forward mode."""
    first = torch._weight_norm(x.reshape(2, 3), x[:3].reshape(1, 3), 1).sin().sum()
    return first + F.layer_norm(x.sin(), (6,)).pow(3).sum()


def plain(x: Tensor) -> Tensor:
    return (x.sin() * W).sum()


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    caches = (_guard._reckoned, _guard._made, _call._usual)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every look through a graph."""
    counted: list[int] = []
    walk = _guard.Guard._walk
    monkeypatch.setattr(_guard.Guard, "_walk", lambda *a: (counted.append(1), walk(*a))[1])
    return counted


@pytest.fixture(params=["double_backward", "grad_of_jvp"])
def method(request: pytest.FixtureRequest) -> str:
    """A method on the tape, where each call is looked through, and one whose functions are remembered."""
    return str(request.param)


def _by_list(x: Tensor) -> Tensor:
    for layer in LAYERS:
        x = layer(x)
    return x.sum()


PLAIN = [plain, lambda x: (x.tanh() @ W) ** 2, lambda x: F.softplus(x).sum(), lambda x: plain(x[1:].repeat(6)[:6])]


@pytest.mark.parametrize("f", PLAIN)
@pytest.mark.parametrize("over", ["jvp_of_grad", "grad_of_jvp"])
def test_a_plain_function_is_looked_through_once(f: Callable[[Tensor], Tensor], over: str, walks: list[int]) -> None:
    first = h.hvp(f, X, W, method=over)
    assert len(walks) == 1
    assert torch.equal(h.hvp(f, X, W, method=over), first)
    assert len(walks) == 1


@pytest.mark.parametrize("f", PLAIN)
@pytest.mark.parametrize("on", ["double_backward", "functional_hvp", "vjp_of_grad"])
def test_on_the_tape_every_call_is_looked_through(f: Callable[[Tensor], Tensor], on: str, walks: list[int]) -> None:
    """That costs less than to tell whether the function is the same."""
    first = h.hvp(f, X, W, method=on)
    assert torch.equal(h.hvp(f, X, W, method=on), first)
    assert len(walks) == 2


def test_pure_forward_mode_runs_the_function_once_more_for_the_first_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    traced = _graph.traced
    monkeypatch.setattr(_graph, "traced", lambda *a: (calls.append(1), traced(*a))[1])
    for _ in range(2):
        h.directional_derivative(plain, X, W, 2, method="nested_jvp")
    assert len(calls) == 1


def _closure(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: inner(x)


def test_one_code_with_other_variables_is_another_function(method: str) -> None:
    h.hvp(_closure(plain), X, W, method=method)
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(_closure(wrong), X, W, method=method)


@pytest.mark.parametrize("method", ["double_backward", "functional_hvp", "grad_of_jvp"])
def test_what_depends_on_values_is_looked_through_each_time(method: str) -> None:
    def f(x: Tensor) -> Tensor:
        return wrong(x) if x.sum() < 0 else plain(x)

    h.hvp(f, X, W, method=method)
    h.hvp(f, X, W, method=method)
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(f, -X, W, method=method)


def test_a_number_read_from_a_tensor_counts_as_looking(method: str) -> None:
    def f(x: Tensor) -> Tensor:
        return (wrong if x.detach().tolist()[0] < 0 else plain)(x)

    h.hvp(f, X, W, method=method)
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(f, -X, W, method=method)


def test_shapes_that_values_decide_count_as_looking(method: str) -> None:
    def f(x: Tensor) -> Tensor:
        return (wrong if len(x[x < 0]) else plain)(x)

    h.hvp(f, X, W, method=method)
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(f, -X, W, method=method)


def test_an_operator_that_is_wrong_at_some_values_only_is_looked_at_each_time() -> None:
    def f(x: Tensor) -> Tensor:
        return x.cumprod(0).sin().sum()

    h.hvp(f, X, W, method="grad_of_jvp")
    with pytest.raises(UnsupportedError, match="cumprod"):
        h.hvp(f, X * (X > 0.2), W, method="grad_of_jvp")


def test_a_global_that_changed_is_seen(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: Tensor) -> Tensor:
        return wrong(x) if SWITCH else plain(x)

    h.hvp(f, X, W, method=method)
    monkeypatch.setitem(globals(), "SWITCH", True)
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(f, X, W, method=method)


def test_a_list_that_changed_is_seen(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "LAYERS", [torch.sin])
    h.hvp(_by_list, X, W, method=method)
    LAYERS.append(wrong)
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(_by_list, X, W, method=method)


def test_a_module_that_changed_is_seen() -> None:
    net = nn.Sequential(nn.Linear(3, 3).double())
    h.hvp(lambda x: net(x).square().sum(), X[:3], W[:3], method="grad_of_jvp")
    net.append(nn.LayerNorm(3).double())
    with pytest.raises(UnsupportedError, match="layer_norm"):
        h.hvp(lambda x: net(x).square().sum(), X[:3], W[:3], method="grad_of_jvp")


def test_no_grad_that_begins_later_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not SWITCH):
            y = x.sin()
        return (x * y).sum()

    h.hvp(f, X, W, method="jvp_of_grad")
    monkeypatch.setitem(globals(), "SWITCH", True)
    assert not h.hvp(f, X, W, method="jvp_of_grad").any()


def test_no_grad_holds_at_every_call() -> None:
    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.sin()
        return (x * y).sum()

    for _ in range(3):
        assert not h.hvp(f, X, W, method="jvp_of_grad").any()


class State:
    on = False


def _with_object(x: Tensor) -> Tensor:
    return wrong(x) if State.on else plain(x)


def _with_import(x: Tensor) -> Tensor:
    import math as m

    return x.sum() * m.pi


def _with_chance(x: Tensor) -> Tensor:
    return wrong(x) if random.random() < 0 else plain(x)


def _with_settings(x: Tensor) -> Tensor:
    return wrong(x) if torch.get_default_dtype() is torch.float16 else plain(x)


def _with_evaluation(x: Tensor) -> Tensor:
    return wrong(x) if eval("SWITCH") else plain(x)


@pytest.mark.parametrize("f", [_with_object, _with_import, _with_chance, _with_settings, _with_evaluation])
def test_what_may_change_unseen_has_no_sketch(f: Callable[[Tensor], Tensor]) -> None:
    assert sketch(f, (X,)) is None


def test_attention_chooses_its_formula_by_settings() -> None:
    def f(x: Tensor) -> Tensor:
        q = x.reshape(1, 1, 2, 3)
        return F.scaled_dot_product_attention(q, q, q).sum()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        h.hvp(f, X, W, method="jvp_of_grad")
    assert not any(known for known in _guard._reckoned((("jvp_of_grad", 2),)).known.values())


def test_a_function_that_is_wrong_is_refused_every_time(method: str) -> None:
    for _ in range(3):
        with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
            h.hvp(wrong, X, W, method=method)
    assert h.hvp(wrong, X, W, method=method, repair=True).isfinite().all()
    with pytest.raises(UnsupportedError, match=r"weight_norm|layer_norm"):
        h.hvp(wrong, X, W, method=method)


def test_what_is_right_by_one_method_is_not_taken_as_right_by_another() -> None:
    def f(x: Tensor) -> Tensor:
        return F.layer_norm(x.sin(), (6,)).pow(3).sum()

    h.hvp(f, X, W, method="double_backward")
    with pytest.raises(UnsupportedError, match="layer_norm"):
        h.hvp(f, X, W, method="grad_of_jvp")


def test_a_function_that_ignores_x_is_refused_every_time() -> None:
    w = W.clone().requires_grad_()
    for _ in range(2):
        with pytest.raises(ValueError, match="does not depend on its argument"):
            h.hvp(lambda x: (w**2).sum(), X, W)
