"""The truth itself: against closed forms, against mpmath and sympy, and where it must refuse to answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import pytest
import sympy
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hograd_core as h
from hograd_core import reference as r

F64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# --- against mpmath and sympy -------------------------------------------------------------------------------


def nested(function: Callable[[Any], Any], depth: int) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        for _ in range(depth):
            x = function(x)
        return x

    return apply


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(torch.sin, mpmath.sin), (torch.tanh, mpmath.tanh), (torch.exp, mpmath.exp)],
    ids=["sin", "tanh", "exp"],
)
def test_scalar_chains_against_mpmath(ours: Any, theirs: Any, order: int) -> None:
    depth = 2
    x = torch.tensor(0.3, dtype=F64)
    with mpmath.workdps(50):
        expected = float(mpmath.diff(nested(theirs, depth), mpmath.mpf(0.3), order))
    one = torch.ones((), dtype=F64)
    for name, arguments in {
        "derivative_tensor": (x,),
        "derivative_vector_product": (x, one),
        "directional_derivative": (x, one),
    }.items():
        assert float(r.reference(name, nested(ours, depth), *arguments, order=order)) == pytest.approx(
            expected, rel=1e-11
        )


def test_every_third_derivative_of_three_variables_against_sympy() -> None:
    a, b, c = symbols = sympy.symbols("a b c")
    expression = sympy.sin(a * b) * sympy.exp(c / 2) + a**3 * c**2 + b
    point = dict(zip(symbols, (0.3, -0.7, 1.1), strict=True))
    expected = [
        float(sympy.diff(expression, i, j, k).evalf(30, subs=point)) for i in symbols for j in symbols for k in symbols
    ]
    result = r.reference(
        "derivative_tensor",
        lambda x: (x[0] * x[1]).sin() * (x[2] / 2).exp() + x[0] ** 3 * x[2] ** 2 + x[1],
        tensor(0.3, -0.7, 1.1),
        order=3,
    )
    torch.testing.assert_close(result, torch.tensor(expected, dtype=F64).view(3, 3, 3), rtol=1e-12, atol=1e-13)


# --- closed forms, by both routes -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 200])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_products_of_powers_entry_by_entry_and_by_a_chain(n: int, order: int) -> None:
    x, v = torch.linspace(0.5, 1.5, n, dtype=F64), torch.linspace(-1, 2, n, dtype=F64)
    falling = math.prod(range(5, 5 - order, -1))
    expected = falling * x ** (5 - order) * v ** (order - 1)
    result = r.reference("derivative_vector_product", lambda x: (x**5).sum(), x, v, order=order)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    along = r.reference("directional_derivative", lambda x: (x**5).sum(), x, v, order=order)
    torch.testing.assert_close(along, (expected * v).sum(), rtol=1e-12, atol=1e-12)


def test_a_tensor_of_any_shape_and_an_alias() -> None:
    x = torch.arange(1.0, 7.0, dtype=F64).reshape(2, 3)
    result = r.reference("hessian", lambda x: x.sum() ** 2 / 2, x)
    assert torch.equal(result, torch.ones(2, 3, 2, 3, dtype=F64))
    assert not result.requires_grad
    assert torch.equal(r.reference("gradient", lambda x: x.sum(), x), torch.ones(2, 3, dtype=F64))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_zeros_where_f_does_not_depend_on_x(order: int) -> None:
    x = tensor(1.0, 2.0)
    result = r.reference("derivative_tensor", lambda x: torch.tensor(3.0, dtype=F64), x, order=order)
    assert torch.equal(result, torch.zeros((2,) * order, dtype=F64))


def test_attention_has_a_truth_though_its_fast_kernel_has_no_derivative() -> None:
    x, v = torch.randn(2, 6, dtype=F64, generator=torch.Generator().manual_seed(1)).unbind()

    def fused(x: Tensor) -> Tensor:
        q = x.view(1, 1, 3, 2)
        return F.scaled_dot_product_attention(q, 2 * q, q**2).sum()

    def plain(x: Tensor) -> Tensor:
        q = x.view(3, 2)
        return (torch.softmax(q @ (2 * q).T / math.sqrt(2), -1) @ q**2).sum()

    for order in (2, 3):
        arguments = (x, v)
        result = r.reference("derivative_vector_product", fused, *arguments, order=order)
        torch.testing.assert_close(result, r.reference("derivative_vector_product", plain, *arguments, order=order))


# --- where it refuses ----------------------------------------------------------------------------------------


class Wrong(torch.autograd.Function):
    """A sine whose formula for the gradient is right once, and the derivative of that formula 1.001 of what it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x.cos().detach() + 1.001 * (x.cos() - x.cos().detach()))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


LIES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    ".item()": (lambda x: x.sum() * x.sin().sum().item(), 1),
    ".detach()": (lambda x: (x * x.detach()).sum(), 1),
    "no derivative of the Bessel function": (lambda x: torch.special.bessel_j0(x).sum(), 1),
    "a step within reach": (lambda x: torch.where(x > 0.5, 2 * x, x).sum(), 1),
    "not deterministic": (lambda x: x.sum() * torch.rand((), dtype=F64), 1),
}
BY_DIFFERENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]] = {
    "a formula of second order that is off by 1.001": (lambda x: Wrong.apply(x).prod(), lambda x: x.sin().prod(), 2),
    "once_differentiable": (
        lambda x: Once.apply(x).sum() + (x**3).sum(), lambda x: x.sin().sum() + (x**3).sum(), 2,
    ),
    "no second derivative of cdist": (
        lambda x: torch.cdist(x.reshape(-1, 1), 2 + x.reshape(-1, 1).detach() * 0).square().sum(),
        lambda x: 3 * (x - 2).square().sum(), 2,
    ),
    "PyTorch's third derivative of layer_norm": (
        lambda x: F.layer_norm(x, (3,)).exp().prod() + x.sin().sum(),
        lambda x: ((x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()).exp().prod() + x.sin().sum(), 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_DIFFERENCES)
def test_what_autograd_gets_wrong_is_found_by_differences(name: str) -> None:
    f, same, order = BY_DIFFERENCES[name]
    x, v = tensor(0.5, -1.0, 2.5), tensor(1.0, 2.0, -3.0)
    for operator, arguments in {
        "derivative_tensor": (x,),
        "derivative_vector_product": (x, v),
        "directional_derivative": (x, v),
    }.items():
        found = r.true_value(operator, f, *arguments, order=order)
        exact = r.true_value(operator, same, *arguments, order=order)
        assert found.source.startswith("differences of ")
        assert (found.error, exact.source, exact.error) != (0.0, "", 0.0)
        assert r.relative_error(found.value, exact.value, found.scale) <= max(found.error, 1e-6)


@pytest.mark.parametrize("name", LIES)
def test_what_autograd_gets_wrong_is_refused(name: str) -> None:
    f, order = LIES[name]
    x, v = tensor(0.5, -1.0, 2.0), tensor(1.0, 2.0, -3.0)
    for below in range(1, order):
        r.reference("directional_derivative", f, x, v, order=below)
    for operator, arguments in {
        "derivative_tensor": (x,),
        "derivative_vector_product": (x, v),
        "directional_derivative": (x, v),
    }.items():
        with pytest.raises(r.TruthError, match=f"^order {order}: autograd gives"):
            r.reference(operator, f, *arguments, order=order)


def test_a_kink_near_the_point_is_no_lie() -> None:
    x = tensor(0.5, -1.0, 1e-4)
    assert torch.equal(r.reference("hessian", lambda x: (x.relu() ** 2).sum(), x), torch.diag(tensor(2.0, 0.0, 2.0)))


@pytest.mark.parametrize("x", [torch.ones(2), torch.ones(2, dtype=F64, device="meta")])
def test_arguments_of_another_kind_are_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"argument 1: got .*expected float64 on the CPU"):
        r.reference("hessian", torch.sum, x)


def test_an_operator_without_a_truth() -> None:
    with pytest.raises(ValueError, match="has one already"):
        r.truth(h.gradient)(lambda f, x: x)
    with pytest.raises(ValueError, match="operator: got 'no_such'"):
        r.has_truth("no_such")


# --- errors and tolerances ------------------------------------------------------------------------------------


class Pair(NamedTuple):
    step: Any
    iterations: int


@pytest.mark.parametrize(
    ("result", "truth", "error"),
    [
        (tensor(1.0, 2.0), tensor(1.0, 2.0), 0.0),
        (tensor(1.0, 2.2), tensor(1.0, 2.0), 0.1),
        (tensor(1.2, 2.0), tensor(1.0, 2.0), 0.1),
        (torch.tensor([1.0, 2.0]), tensor(1.0, 2.0), 0.0),
        (tensor(0.0, 0.0), tensor(0.0, 0.0), 0.0),
        (tensor(0.0, 1e-3), tensor(0.0, 0.0), 1e-3),
        (tensor(1.0), tensor(1.0, 2.0), math.inf),
        (tensor(1.0, 2.0)[None], tensor(1.0, 2.0), math.inf),
        (tensor(1.0, math.nan), tensor(1.0, 2.0), math.inf),
        (tensor(1.0, math.inf), tensor(1.0, math.inf), math.inf),
        (tensor(1.0, 2.0), tensor(1.0, math.nan), math.inf),
        (None, tensor(1.0), math.inf),
        ("text", tensor(1.0), math.inf),
        (torch.zeros(0), torch.zeros(0), 0.0),
        (3.0, 2.0, 0.5),
        (3, tensor(1.0), math.inf),
        ((tensor(1.0), tensor(4.0)), (tensor(1.0), tensor(2.0)), 1.0),
        ([tensor(1.0)], (tensor(1.0),), 0.0),
        ((tensor(1.0),), (tensor(1.0), tensor(2.0)), math.inf),
        ({"a": tensor(1.0), "b": 2.0}, {"b": 1.0, "a": tensor(1.0)}, 1.0),
        ({"a": tensor(1.0), "b": 2.0}, {"a": tensor(1.0)}, math.inf),
        ({}, {"a": tensor(1.0)}, math.inf),
        (Pair(tensor(2.0), 7), {"step": tensor(1.0)}, 1.0),
        (Pair(tensor(2.0), 7), Pair(tensor(2.0), 8), 0.125),
        (Pair(tensor(2.0), 7), {"stride": tensor(1.0)}, math.inf),
        (Pair({"w": (tensor(1.0),)}, 7), {"step": {"w": (tensor(2.0),)}}, 0.5),
    ],
)
def test_relative_error(result: Any, truth: Any, error: float) -> None:
    assert r.relative_error(result, truth) == pytest.approx(error)


def test_an_error_is_relative_to_the_scale_where_terms_cancel() -> None:
    assert r.relative_error(tensor(1e-9), tensor(0.5e-9), scale=1.0) == pytest.approx(0.5e-9)
    x, v = tensor(1.0, 1.0), tensor(1.0, -1.0 + 1e-9)
    true = r.true_value("directional_derivative", lambda x: (x**3).sum(), x, v, order=1)
    assert float(true.value) == pytest.approx(3e-9)
    assert true.scale == pytest.approx(6.0)
    assert r.error("directional_derivative", true.value * 1.5, lambda x: (x**3).sum(), x, v, order=1) < 1e-9


def test_tolerances_tell_a_thousandth_apart_in_double_and_single_precision() -> None:
    exact = h.derivative_tensor.method("rows")
    for order in (1, 2, 3, 4):
        assert r.tolerance(exact, F64, order) < 1e-11
    for order in (1, 2, 3):
        assert r.tolerance(exact, torch.float32, order) < 1e-3 / 2
    for dtype in (torch.bfloat16, torch.float16):
        assert r.tolerance(exact, dtype, 6) <= 0.5
    rough = h.derivative_vector_product.method("finite_difference")
    assert r.tolerance(exact, F64, 2) < r.tolerance(rough, F64, 2) < 1e-7


# --- what is too large for its truth ------------------------------------------------------------------------


def _coupled(x: Tensor) -> Tensor:
    return (x.sin() * x.flip(0) ** 2).sum() + x.sum() ** 3 / x.numel()


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_right_tensor_agrees_with_samples_of_its_truth(order: int, dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 12, dtype=dtype)
    method = h.resolve("derivative_tensor")[0].method("rows")
    found = r.sampled("derivative_tensor", h.derivative_tensor(_coupled, x, order), _coupled, x.double(), order=order)
    assert found.finite
    assert found.error <= r.tolerance(method, dtype, order) / 16  # as far from it as a whole truth leaves it
    assert found.what == "3 random products of the result"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(300,), (30, 10)])
def test_one_wrong_entry_of_ninety_thousand_is_seen(shape: tuple[int, ...]) -> None:
    x = torch.linspace(-1, 1, 300, dtype=F64).reshape(shape)
    f = lambda x: _coupled(x.flatten())  # noqa: E731
    hessian = h.hessian(f, x)
    allowed = r.tolerance(h.resolve("hessian")[0].method("rows"), torch.float32, 2)
    assert r.sampled("derivative_tensor", hessian, f, x).error < 1e-12
    flat, generator = hessian.reshape(300, 300), torch.Generator().manual_seed(0)
    for i, j in torch.randint(300, (20, 2), generator=generator).tolist():
        wrong = flat.clone()
        wrong[i, j] += flat.abs().max()
        assert r.sampled("derivative_tensor", wrong.reshape(shape * 2), f, x).error > allowed, (i, j)
    assert r.sampled("derivative_tensor", flat.T.reshape(shape * 2), f, x).error < 1e-12
    assert r.sampled("derivative_tensor", 1.01 * hessian, f, x).error > allowed


@pytest.mark.slow
def test_a_diagonal_is_held_at_entries() -> None:
    x = torch.linspace(-1, 1, 1000, dtype=F64)
    diagonal = h.hessian_diagonal(_coupled, x)
    found = r.sampled("hessian_diagonal", diagonal, _coupled, x)
    assert (found.error < 1e-12, found.what) == (True, "16 entries drawn at random")
    assert r.sampled("hessian_diagonal", diagonal * 1.01, _coupled, x).error > 1e-3
    assert r.sampled("hessian_diagonal", diagonal.flip(0), _coupled, x).error > 1e-3


def test_samples_refuse_what_the_whole_truth_refuses() -> None:
    x = torch.linspace(-1, 1, 4, dtype=F64)
    hessian, hides = h.hessian(_coupled, x), lambda x: (x * x.detach() ** 2).sum()  # autograd sees half of it
    for operator, result in (("derivative_tensor", hessian), ("hessian_diagonal", hessian.diagonal())):
        assert r.sampled(operator, result[:3], _coupled, x).error == math.inf
        assert r.sampled(operator, result * math.nan, _coupled, x).error == math.inf
        with pytest.raises(r.TruthError, match="order 1: autograd gives"):
            r.sampled(operator, result, hides, x)
    assert not r.sampled("derivative_tensor", hessian, lambda x: x.norm() + 0 * x.sum(), 0 * x).finite


def test_what_can_be_sampled_and_how_much_the_whole_would_take() -> None:
    assert r.sweeps("derivative_tensor", 10, 3) == 100
    assert r.sweeps("hessian_diagonal", 10**6, 2) == 10**6
    assert r.sweeps("derivative_tensor", 10**6, 1) == r.sweeps("derivative_vector_product", 10**6, 2) == 0
