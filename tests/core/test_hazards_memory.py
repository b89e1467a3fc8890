"""The guard remembers a function only where it can do nothing else the next time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hograd_core as h
from hograd_core import UnsupportedError
from hograd_core.hazards import _graph, _guard
from hograd_core.hazards._memory import sketch

F64 = torch.float64
X = torch.linspace(0.1, 0.6, 6, dtype=F64)
W = torch.linspace(-1.0, 1.0, 6, dtype=F64)
SWITCH = False
LAYERS: list[Callable[[Tensor], Tensor]] = []


def wrong(x: Tensor) -> Tensor:
    """PyTorch differentiates it wrongly by double backward."""
    return torch._weight_norm(x.reshape(2, 3), x[:3].reshape(1, 3), 1).sin().sum()


def plain(x: Tensor) -> Tensor:
    return (x.sin() * W).sum()


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    _guard._reckoned.cache_clear()
    _guard._made.cache_clear()
    yield
    _guard._reckoned.cache_clear()
    _guard._made.cache_clear()


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every look through a graph."""
    counted: list[int] = []
    walked = _graph.walked
    monkeypatch.setattr(_graph, "walked", lambda *a: (counted.append(1), walked(*a))[1])
    return counted


def _by_list(x: Tensor) -> Tensor:
    for layer in LAYERS:
        x = layer(x)
    return x.sum()


@pytest.mark.parametrize(
    "f", [plain, lambda x: (x.tanh() @ W) ** 2, lambda x: F.softplus(x).sum(), lambda x: plain(x[1:].repeat(6)[:6])]
)
@pytest.mark.parametrize("method", ["double_backward", "functional_hvp", "jvp_of_grad", "grad_of_jvp"])
def test_a_plain_function_is_looked_through_once(f: Callable[[Tensor], Tensor], method: str, walks: list[int]) -> None:
    first = h.hvp(f, X, W, method=method)
    assert len(walks) == 1
    assert torch.equal(h.hvp(f, X, W, method=method), first)
    assert len(walks) == 1


def test_pure_forward_mode_runs_the_function_once_more_for_the_first_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    traced = _graph.traced
    monkeypatch.setattr(_graph, "traced", lambda *a: (calls.append(1), traced(*a))[1])
    for _ in range(2):
        h.directional_derivative(plain, X, W, 2, method="nested_jvp")
    assert len(calls) == 1


def _closure(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: inner(x)


def test_one_code_with_other_variables_is_another_function() -> None:
    h.hvp(_closure(plain), X, W)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(_closure(wrong), X, W)


@pytest.mark.parametrize("method", ["double_backward", "functional_hvp"])
def test_what_depends_on_values_is_looked_through_each_time(method: str) -> None:
    def f(x: Tensor) -> Tensor:
        return wrong(x) if x.sum() < 0 else plain(x)

    h.hvp(f, X, W, method=method)
    h.hvp(f, X, W, method=method)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(f, -X, W, method=method)


def test_a_number_read_from_a_tensor_counts_as_looking() -> None:
    def f(x: Tensor) -> Tensor:
        return (wrong if x.detach().tolist()[0] < 0 else plain)(x)

    h.hvp(f, X, W)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(f, -X, W)


def test_shapes_that_values_decide_count_as_looking() -> None:
    def f(x: Tensor) -> Tensor:
        return (wrong if len(x[x < 0]) else plain)(x)

    h.hvp(f, X, W)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(f, -X, W)


def test_an_operator_that_is_wrong_at_some_values_only_is_looked_at_each_time() -> None:
    def f(x: Tensor) -> Tensor:
        return x.cumprod(0).sin().sum()

    h.hvp(f, X, W, method="grad_of_jvp")
    with pytest.raises(UnsupportedError, match="cumprod"):
        h.hvp(f, X * (X > 0.2), W, method="grad_of_jvp")


def test_a_global_that_changed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: Tensor) -> Tensor:
        return wrong(x) if SWITCH else plain(x)

    h.hvp(f, X, W)
    monkeypatch.setitem(globals(), "SWITCH", True)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(f, X, W)


def test_a_list_that_changed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "LAYERS", [torch.sin])
    h.hvp(_by_list, X, W)
    LAYERS.append(wrong)
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(_by_list, X, W)


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
        h.hvp(f, X, W)
    assert not any(known for known in _guard._reckoned((("double_backward", 2),)).known.values())


def test_a_function_that_is_wrong_is_refused_every_time() -> None:
    for _ in range(3):
        with pytest.raises(UnsupportedError, match="weight_norm"):
            h.hvp(wrong, X, W)
    assert h.hvp(wrong, X, W, repair=True).isfinite().all()
    with pytest.raises(UnsupportedError, match="weight_norm"):
        h.hvp(wrong, X, W)


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
