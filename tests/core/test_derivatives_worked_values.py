"""The worked values of the source chapter, system by system, by every method that computes them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hograd_core as h

F64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def methods(operator: h.Operator, order: int) -> list[str]:
    return [m.name for m in operator.methods.values() if m.supports(order)]


def close(result: Tensor, expected: Tensor, method: h.Method) -> None:
    bound = 1e-12 if method.exact else 1e-6
    torch.testing.assert_close(result, expected, rtol=bound, atol=bound)


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum()


@pytest.mark.parametrize("method", methods(h.derivative_tensor, 2))
def test_s1_second_derivative_of_a_cube(method: str) -> None:
    x = torch.tensor(2.0, dtype=F64)
    record = h.derivative_tensor.method(method)
    if record.supports(1):
        close(h.derivative_tensor(cubic, x, 1, method=method), torch.tensor(12.0, dtype=F64), record)
    close(h.hessian(cubic, x, method=method), torch.tensor(12.0, dtype=F64), record)


@pytest.mark.parametrize("method", methods(h.directional_derivative, 2))
def test_s2_second_derivative_of_the_sine(method: str) -> None:
    x, v = torch.tensor(3.0, dtype=F64), torch.tensor(1.0, dtype=F64)
    record = h.directional_derivative.method(method)
    for order, value in ((1, math.cos(3)), (2, -math.sin(3))):
        result = h.directional_derivative(torch.sin, x, v, order, method=method)
        close(result, torch.tensor(value, dtype=F64), record)


@pytest.mark.parametrize("method", methods(h.derivative_tensor, 2))
def test_s3_hessian_of_a_quadratic_form(method: str) -> None:
    result = h.hessian(lambda x: x[0] ** 2 + x[0] * x[1] + x[1] ** 2, tensor(0.3, -1.2), method=method)
    close(result, torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=F64), h.derivative_tensor.method(method))


@pytest.mark.parametrize("method", methods(h.derivative_tensor, 2))
def test_s4_hessian_by_rows(method: str) -> None:
    def f(x: Tensor) -> Tensor:
        return x[0] ** 3 + x[0] * x[1] ** 2 + x[1].sin()

    expected = torch.tensor([[6.0, 4.0], [4.0, 2 - math.sin(2)]], dtype=F64)
    close(h.hessian(f, tensor(1.0, 2.0), method=method), expected, h.derivative_tensor.method(method))


@pytest.mark.parametrize("method", methods(h.derivative_vector_product, 2))
def test_s5_product_with_the_identity(method: str) -> None:
    v = tensor(-1.0, 4.0, 0.5)
    result = h.hvp(lambda x: 0.5 * (x**2).sum(), tensor(1.0, 2.0, 3.0), v, method=method)
    close(result, v, h.derivative_vector_product.method(method))


@pytest.mark.parametrize("method", methods(h.derivative_vector_product, 2))
def test_s6_s7_product_with_the_hessian_of_cubes(method: str) -> None:
    result = h.hvp(cubic, tensor(1.0, 2.0), tensor(1.0, 1.0), method=method)
    close(result, tensor(6.0, 12.0), h.derivative_vector_product.method(method))


def family(operator: h.Operator) -> list[tuple[h.Operator, str]]:
    return [(operator, m) for m in methods(operator, 4)]


@pytest.mark.parametrize(
    ("operator", "method"),
    [pair for o in (h.derivative_tensor, h.derivative_vector_product, h.directional_derivative) for pair in family(o)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_s11_four_derivatives_of_a_fourth_power(operator: h.Operator, method: str) -> None:
    x, one = torch.tensor(2.0, dtype=F64), torch.tensor(1.0, dtype=F64)
    arguments: dict[str, object] = {"f": lambda x: x**4, "x": x, "v": one}
    for order, value in ((1, 32.0), (2, 48.0), (3, 48.0), (4, 24.0)):
        if not operator.method(method).supports(order):
            continue
        result = operator(*(arguments[name] for name in operator.inputs), order=order, method=method)
        bound = 1e-12 if operator.method(method).exact else 1e-2
        torch.testing.assert_close(result, torch.tensor(value, dtype=F64), rtol=bound, atol=0)


@pytest.mark.parametrize("method", ["autograd", "func"])
@pytest.mark.parametrize(
    ("f", "gradient"),
    [(cubic, lambda x: 3 * x**2), (torch.sum, torch.ones_like), (lambda x: x.exp().sum(), torch.exp)],
    ids=["cubes", "sum", "exp"],
)
def test_gradients_on_paper(method: str, f: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor]) -> None:
    x = tensor(0.5, -1.0, 2.0)
    torch.testing.assert_close(h.gradient(f, x, method=method), gradient(x))
