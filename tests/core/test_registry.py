"""Operators and methods as records: calls, queries, errors that name the argument and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hograd_core as h
from hograd_core import _registry

X = torch.tensor([0.5, -1.0, 2.0])
V = torch.tensor([1.0, 2.0, -3.0])


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum()


@pytest.fixture
def no_trace_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_OPERATORS", dict(_registry._OPERATORS))


def test_every_method_has_its_source_and_a_docstring() -> None:
    for operator in h.operators().values():
        assert operator.guard.__doc__
        assert operator.default in operator.methods
        for method in operator.methods.values():
            assert method.source
            assert method.mode
            assert method.function.__doc__, f"{operator.name}[{method.name}]"


def test_aliases_resolve_to_an_order() -> None:
    assert h.resolve("hessian") == (h.derivative_tensor, 2)
    assert h.resolve("hvp") == (h.derivative_vector_product, 2)
    assert h.resolve("gradient") == (h.gradient, None)
    with pytest.raises(ValueError, match=r"operator: got 'hesian', expected one of .*hessian"):
        h.resolve("hesian")


def test_convenience_functions_are_the_operators() -> None:
    assert torch.equal(h.hvp(cubic, X, V), h.derivative_vector_product(cubic, X, V, 2))
    assert torch.equal(h.hessian(cubic, X), h.derivative_tensor(cubic, X))
    assert torch.equal(h.hessian(cubic, X, method="vmap_hvp", chunk_size=2), h.hessian(cubic, X, method="vmap_hvp"))


def test_options_and_orders_are_the_methods() -> None:
    assert h.derivative_tensor.method("vmap_hvp").options == ("chunk_size", "out")
    assert h.derivative_tensor.method("rows").options == ("out",)
    vhp = h.derivative_vector_product.method("functional_vhp")
    assert [k for k in range(1, 5) if vhp.supports(k)] == [2]
    assert h.derivative_vector_product.inputs == ("f", "x", "v")
    assert h.derivative_tensor.takes_order
    assert not h.gradient.takes_order


NOT_A_FUNCTION: Any = 3

ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: h.hvp(cubic, X, V, method="double_bakward"),
        ValueError,
        r"method: got 'double_bakward', expected one of double",
    ),
    (
        lambda: h.hessian(cubic, X, method="rows", chunk_size=2),
        TypeError,
        r"chunk_size: not an option of .*its options: out, repair, verify, strict",
    ),
    (lambda: h.hessian(cubic, X, method="vmap_hvp", chunk_size=0), ValueError, r"chunk_size: got 0"),
    (lambda: h.hessian(cubic, X, method="vmap_hvp", chunk_size=1.5), TypeError, r"chunk_size: got 1.5"),
    (lambda: h.derivative_tensor(cubic, X, 0), ValueError, r"order: got 0, expected >= 1"),
    (lambda: h.derivative_tensor(cubic, X, 2.0), TypeError, r"order: got 2.0 of type float"),
    (lambda: h.derivative_tensor(cubic, X, True), TypeError, r"order: got True of type bool"),
    (
        lambda: h.derivative_vector_product(cubic, X, V, 3, method="functional_vhp"),
        ValueError,
        r"order: got 3, but .*from 2 to 2; choose another method",
    ),
    (lambda: h.hessian(NOT_A_FUNCTION, X), TypeError, r"f: got int, expected a callable"),
    (lambda: h.hessian(cubic, [1.0, 2.0]), TypeError, r"x: got list, expected a torch.Tensor"),  # type: ignore[arg-type]
    (lambda: h.hessian(cubic, torch.tensor([1, 2])), TypeError, r"x: got dtype torch.int64, .*convert with"),
    (lambda: h.hessian(cubic, torch.ones(2, dtype=torch.complex64)), TypeError, r"x: got dtype torch.complex64"),
    (lambda: h.hessian(cubic, torch.ones(0, 3)), ValueError, r"x: got an empty tensor of shape \(0, 3\)"),
    (lambda: h.hessian(torch.sin, X), ValueError, r"f: returned shape \(3,\), expected a 0-dimensional tensor"),
    (lambda: h.hessian(lambda x: (x * 1j).sum(), X), TypeError, r"f: returned dtype torch.complex64"),
    (lambda: h.hessian(lambda x: x.sum().long(), X), TypeError, r"f: returned dtype torch.int64"),
    (lambda: h.hessian(lambda x: 1.0, X), TypeError, r"f: returned float, expected a 0-dimensional tensor"),  # type: ignore
    (lambda: h.hvp(cubic, X, V[:2]), ValueError, r"v: got shape \(2,\), expected \(3,\) like x"),
    (lambda: h.hvp(cubic, X, V.double()), TypeError, r"v: got dtype torch.float64, expected torch.float32 like x"),
    (lambda: h.hvp(cubic, X, V.to("meta")), ValueError, r"v: got device meta, expected cpu like x"),
    (lambda: h.hvp(cubic, X, None), TypeError, r"v: got NoneType"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors_name_argument_got_expected_remedy(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("operator", "method"),
    [(o, m) for o in (h.gradient, h.derivative_tensor) for m in o.methods],
    ids=lambda one: getattr(one, "name", one),
)
def test_a_result_that_is_not_scalar_is_named_by_every_method(operator: h.Operator, method: str) -> None:
    with pytest.raises(ValueError, match="f: returned shape"):
        operator(torch.exp, X, method=method)


@pytest.mark.usefixtures("no_trace_left")
def test_a_new_operator_and_method_need_no_other_edit() -> None:
    @_registry.operator(result="scalar", default="plain", order=1)
    def slope(f: Any, x: Any) -> tuple[Any, ...]:
        """The sum of the gradient."""
        return f, x

    @_registry.method(slope, "plain", mode="reverse", source="here")
    def plain(f: Any, x: Any, *, scale: float = 1.0) -> Tensor:
        """By the gradient."""
        return scale * h.gradient(f, x).sum()

    assert h.resolve("slope") == (slope, None)
    assert slope(cubic, X, scale=2.0).item() == pytest.approx(2 * (3 * X**2).sum().item())
    with pytest.raises(ValueError, match="declared twice"):
        _registry.method(slope, "plain", mode="reverse", source="here")(plain)
    with pytest.raises(ValueError, match="declared twice"):
        _registry.operator(result="scalar", default="plain", order=1)(slope.guard)


@pytest.mark.usefixtures("no_trace_left")
def test_an_operator_has_an_order_or_takes_one() -> None:
    def neither(f: Any, x: Any) -> tuple[Any, ...]:
        return f, x

    with pytest.raises(ValueError, match="must either take an `order`"):
        _registry.operator(result="x", default="none")(neither)


@pytest.mark.slow
def test_the_result_is_the_same_under_warnings_as_errors() -> None:
    """The first forward-mode call in a process makes PyTorch warn of its own deprecated jit."""
    import subprocess
    import sys

    code = (
        "import torch, hograd_core as h\n"
        "x = torch.ones(2)\n"
        "f = lambda x: (x**3).sum()\n"
        "assert h.hvp(f, x, x, method='jvp_of_grad').tolist() == [6.0, 6.0]\n"
        "assert h.directional_derivative(f, x, x, 3, method='nested_backward').item() == 12.0\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
