"""The caller's modes stay outside; f gets its own back; results inside a larger derivative stay differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hograd_core as h
from hograd_core._entrance import callback, entered, entrance, kept

F64 = torch.float64
ONE = torch.ones(2, dtype=F64)
PRODUCTS = tuple(h.derivative_vector_product.methods)
TENSORS = tuple(h.derivative_tensor.methods)
ALONG = tuple(h.directional_derivative.methods)


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum()


@entrance
def inside(f: Callable[[], Any]) -> tuple[torch.dtype, Any]:
    square = torch.ones(2, 2)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    return (square @ square).dtype, callback(f)()


def test_autocast_is_the_functions_not_the_librarys() -> None:
    square = torch.ones(2, 2)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert inside(lambda: ((square @ square).dtype, torch.is_grad_enabled())) == (
            torch.float32,
            (torch.bfloat16, True),
        )
        assert inside(lambda: inside(lambda: (square @ square).dtype)) == (
            torch.float32,
            (torch.float32, torch.bfloat16),
        )
        assert (square @ square).dtype == torch.bfloat16
        assert torch.is_inference_mode_enabled()


def test_an_exception_leaves_everything_as_it_was() -> None:
    def fails() -> None:
        raise KeyError("f")

    with torch.autocast("cpu"), pytest.raises(KeyError):
        inside(fails)
    with entered():
        assert not kept()
    assert not torch.is_autocast_enabled("cpu")


def test_only_calls_from_inside_are_part_of_a_larger_derivative() -> None:
    seen: list[bool] = []

    @entrance
    def look() -> None:
        seen.append(kept())

    look()
    inside(look)
    torch.func.grad(lambda x: (look(), x.sum())[1])(ONE)
    look()
    assert seen == [False, True, True, False]


def test_threads_do_not_see_each_others_modes() -> None:
    def work(i: int) -> float:
        with torch.inference_mode(i % 2 == 0):
            return float(h.hvp(quartic, ONE * i, ONE).sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(40))) == [24.0 * i * i for i in range(40)]


OUTER = {
    "tape": lambda g, x: h.gradient(g, x),
    "func": lambda g, x: h.gradient(g, x, method="func"),
    "torch.func.grad": lambda g, x: torch.func.grad(g)(x),
    "jvp": lambda g, x: torch.func.jvp(g, (x,), (ONE,))[1].expand(2),
}
INNER = {
    **{f"hvp {m}": (lambda x, m=m: h.hvp(quartic, x, ONE, method=m).sum(), 24.0) for m in PRODUCTS},
    **{f"hessian {m}": (lambda x, m=m: h.hessian(quartic, x, method=m).sum(), 24.0) for m in TENSORS},
    **{
        f"along {m}": (lambda x, m=m: h.directional_derivative(quartic, x, ONE, 2, method=m), 24.0) for m in ALONG
    },
    "gradient": (lambda x: h.gradient(quartic, x).sum(), 12.0),
    "third": (lambda x: h.derivative_tensor(quartic, x, 3).sum(), 24.0),
}  # fmt: skip


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", OUTER)
def test_composition_is_right_or_refused(outer: str, inner: str) -> None:
    function, slope = INNER[inner]
    expected = torch.full_like(ONE, 2 * slope if outer == "jvp" else slope)
    tolerance = 1e-3 if "finite_difference" in inner else 1e-9
    try:
        found = OUTER[outer](function, ONE)
    except h.UnsupportedError:
        defaults = ("hvp double_backward", "hessian rows", "along nested_grad", "gradient", "third", "hvp jvp_of_grad")
        assert outer != "tape" or inner == "along nested_backward"
        assert inner not in defaults or outer == "jvp"
        return
    except RuntimeError as error:
        # jvp of a tape that torch.func does not see: PyTorch says so.
        assert outer == "jvp" and "does not require grad" in str(error)  # noqa: PT017, PT018
        return
    assert torch.allclose(found, expected, rtol=tolerance), (found, expected)


def test_what_f_takes_from_outside_is_not_differentiated_twice() -> None:
    # d/dy of y² x at y = x is 2x², whose derivative is 4x; with x's own path counted it would be 6x.
    for method in ("autograd", "func"):
        found = h.gradient(lambda x, m=method: h.gradient(lambda y: (y * y * x).sum(), x, method=m).sum(), 3 * ONE)
        assert torch.equal(found, 12 * ONE)


def test_an_outer_variable_is_reached_through_a_closure() -> None:
    found = h.gradient(lambda p: h.hvp(lambda x: (x**3 * p).sum(), ONE, ONE).sum(), ONE)
    assert torch.equal(found, 6 * ONE)


@pytest.mark.parametrize("method", PRODUCTS)
def test_parameters_of_a_closure_keep_their_grad(method: str) -> None:
    p = ONE.clone().requires_grad_()
    p.grad = 5 * ONE
    found = h.hvp(lambda x: (x**3 * p).sum(), ONE, ONE, method=method)
    assert torch.allclose(found, 6 * ONE, rtol=1e-3)
    assert not found.requires_grad
    assert torch.equal(p.grad, 5 * ONE)


EVERY = [
    *((h.derivative_vector_product, m) for m in PRODUCTS),
    *((h.derivative_tensor, m) for m in TENSORS),
    *((h.directional_derivative, m) for m in ALONG),
]
IDS = [f"{o.name}-{m}" for o, m in EVERY]


def arguments(operator: Any, f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Any, ...]:
    return (f, x) if operator is h.derivative_tensor else (f, x, torch.ones_like(x))


@pytest.mark.parametrize(("operator", "method"), EVERY, ids=IDS)
def test_a_function_that_ignores_x_is_named(operator: Any, method: str) -> None:
    layer = nn.Linear(2, 1).double()
    with pytest.raises(ValueError, match="does not depend on its argument"):
        operator(*arguments(operator, lambda _: layer(ONE).square().sum(), layer.weight), 2, method=method)
    for by in h.gradient.methods:
        with pytest.raises(ValueError, match="does not depend on its argument"):
            h.gradient(lambda _: layer(ONE).square().sum(), layer.weight, method=by)
    # A constant, and a function that is linear in x with such a parameter, are what they are.
    for f in (lambda _: torch.zeros((), dtype=F64), lambda x: layer(x).sum()):
        assert not operator(*arguments(operator, f, ONE), 2, method=method).any()


@pytest.mark.parametrize(("operator", "method"), EVERY, ids=IDS)
def test_no_grad_means_constant_in_every_mode(operator: Any, method: str) -> None:
    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x * x
        return (x * x * y).sum()

    found = operator(*arguments(operator, f, 2 * ONE[:1]), 2, method=method)
    if method == "finite_difference":  # which knows nothing of autograd: the gradient 2 x³ has slope 6 x²
        assert math.isclose(found.item(), 24, rel_tol=1e-4)
    else:
        assert found.item() == 8


@pytest.mark.parametrize(("operator", "method"), EVERY, ids=IDS)
def test_expanded_points_and_those_of_inference_mode(operator: Any, method: str) -> None:
    with torch.inference_mode():
        made = torch.ones(3, dtype=F64)
    expected = operator(*arguments(operator, quartic, torch.ones(3, dtype=F64)), 2)
    for x in (made, torch.ones((), dtype=F64).expand(3), torch.ones(6, dtype=F64)[::2]):
        found = operator(*arguments(operator, quartic, x), 2, method=method)
        assert torch.allclose(found, expected, rtol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(operator(*arguments(operator, quartic, made), 2, method=method), expected, rtol=1e-5)
