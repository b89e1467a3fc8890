"""verify=True, verify(), and derivatives that are not finite: faults are found and named, what is right passes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import mostly_slow
from torch import Tensor

import hograd_core as h
from hograd_core import hazards

F64 = torch.float64
X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]], dtype=F64)
V = torch.tensor([[1.0, 2.0, -3.0], [0.5, 1.0, 1.0]], dtype=F64)
DERIVATIVES = (h.gradient, h.derivative_tensor, h.derivative_vector_product, h.directional_derivative)


def smooth(x: Tensor) -> Tensor:
    return (x * 2).sin().exp().sum() + x.prod()


class Wrong(torch.autograd.Function):
    """The sine, with a first derivative that is right and constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.detach().cos()


class WrongAtOnce(Wrong):
    """The sine, with a gradient 1% too large."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos() * 1.01


def call(operator: h.Operator, f: Any, x: Tensor, order: int, **options: Any) -> Tensor:
    arguments = {"f": f, "x": x, "v": V.to(x.dtype).reshape(-1)[: x.numel()].reshape(x.shape)}
    given = [arguments[name] for name in operator.inputs]
    result: Tensor = operator(*given, *([order] if operator.takes_order else []), **options)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("dtype", mostly_slow([torch.float32, F64]), ids=str)
@pytest.mark.parametrize("operator", DERIVATIVES, ids=lambda o: o.name)
def test_what_is_right_passes(operator: h.Operator, dtype: torch.dtype) -> None:
    for x in (X[0].to(dtype), X[0, 0].to(dtype), X[0, :1].to(dtype)):
        for method in operator.methods.values():
            for order in (1, 2, 3) if operator.takes_order else (1,):
                if method.supports(order) and (dtype == F64 or method.exact):
                    found = call(operator, smooth, x, order, method=method.name, verify=True)
                    assert torch.equal(found, call(operator, smooth, x, order, method=method.name))


@pytest.mark.parametrize("operator", DERIVATIVES[1:], ids=lambda o: o.name)
@pytest.mark.parametrize("order", [2, 3])
def test_a_custom_function_whose_second_derivative_is_wrong(operator: h.Operator, order: int) -> None:
    f = lambda x: Wrong.apply(x * 2).exp().sum()  # noqa: E731
    for x in (X, X[0, 0], X.float()):
        assert call(operator, f, x, order).isfinite().all()
        with pytest.raises(h.VerificationError, match=r"wrong by .* of its size"):
            call(operator, f, x, order, verify=True)


def test_a_gradient_that_is_wrong_by_a_percent() -> None:
    with pytest.raises(h.VerificationError, match="differences of values"):
        h.gradient(lambda x: WrongAtOnce.apply(x).sum(), X, verify=True)


def test_what_cannot_be_verified_is_said() -> None:
    with pytest.warns(h.NotVerifiedWarning, match="not smooth at x"):
        h.hvp(
            lambda x: x.relu().sum() + (x * x).sum(), torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64), verify=True
        )


def test_operators_without_a_second_definition_refuse() -> None:
    with pytest.raises(TypeError, match=r"verify: hessian_trace has no second definition.*derivative_tensor"):
        h.hessian_trace(smooth, X, verify=True)
    with pytest.raises(TypeError, match=r"verify: .* inside another derivative"):
        h.gradient(lambda x: h.hvp(smooth, x, V, verify=True).sum(), X)


@pytest.mark.slow
def test_verify_names_the_operator_and_the_modes() -> None:
    with pytest.raises(h.VerificationError, match=r"order 2, reverse over reverse .*at fault: Wrong"):
        h.verify(lambda x: Wrong.apply(x * 2).exp().sum(), X)
    report = h.verify(lambda x: (F.layer_norm(x.tanh(), (3,)) ** 3).sum(), X, 3, check=False)
    assert not report.ok
    by = {(f.order, f.mode): f for f in report.findings}
    assert by[2, "reverse over reverse"].status == by[2, "forward over reverse"].status == "right"
    for key in ((2, "reverse over forward"), (2, "forward over forward"), (3, "reverse over reverse")):
        assert by[key].status == "wrong"
        assert by[key].operators == ("torch.nn.functional.layer_norm",)
        assert "layer_norm" in str(by[key])
    first = h.verify(lambda x: WrongAtOnce.apply(x).sum(), X, 1, check=False)
    assert [f.status for f in first.findings] == ["wrong", "unsupported"]


def test_verify_passes_what_is_right_and_says_what_is_unsupported() -> None:
    assert h.verify(smooth, X, 3).ok
    assert h.verify(smooth, X.float(), 3).ok
    report = h.verify(lambda x: torch.cdist(x, 2 * x + 1).sum(), X)
    assert report.ok
    assert {f.status for f in report.findings if f.order == 2} == {"unsupported"}
    assert all(f.reason for f in report.findings if f.status == "unsupported")


def test_the_original_apply_is_put_back() -> None:
    before = torch.autograd.Function.__dict__["apply"]
    h.verify(lambda x: Wrong.apply(x).sum(), X, check=False)
    assert torch.autograd.Function.__dict__["apply"] is before


SINGULAR = [
    (lambda x: x.pow(1.5).sum(), [0.0, 1.0], "pow"),
    (lambda x: torch.linalg.vector_norm(x * x), [0.0, 0.0], "linalg_vector_norm"),
    (lambda x: (x.clamp(min=0) ** 1.5).sum() + x.sin().prod(), [0.0, 1.0], "pow"),
    (lambda x: torch.where(x > 0, x.clamp(min=0) ** 1.5, x).sum(), [0.0, 1.0], "pow"),
]


@pytest.mark.parametrize(("f", "x", "name"), SINGULAR)
def test_a_derivative_that_is_not_finite_is_named(f: Any, x: list[float], name: str) -> None:
    point = torch.tensor(x, dtype=F64)
    if not h.gradient(f, point).isfinite().all():
        pytest.fail("the case is none: the gradient is not finite either")
    with pytest.warns(h.NotFiniteWarning, match=rf"order 2 is not finite.*first appears at ({name})"):
        found = h.hessian(f, point)
    assert not found.isfinite().all()
    with pytest.raises(FloatingPointError, match=name):
        h.hvp(f, point, torch.ones(2, dtype=F64), strict=True)


def test_what_is_not_finite_itself_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (lambda x: (x / 0).sum(), lambda x: x.sqrt().sum(), lambda x: (x + 1e3).exp().sum()):
            h.hessian(f, torch.zeros(2, dtype=F64))
        # The sum overflows, no entry does.
        assert h.hvp(lambda x: (x * x).sum(), torch.ones(4), torch.full((4,), 1.5e38)).isfinite().all()


def test_a_method_alone_that_is_not_finite_is_told_from_the_function() -> None:
    f = lambda x: torch.logcumsumexp(x, 0).exp().sum()  # noqa: E731
    with hazards.ignored():
        found = h.hvp(f, X[0], V[0], method="double_vjp")
    if found.isfinite().all():
        pytest.skip("this torch has mended logcumsumexp")
    with pytest.raises((FloatingPointError, h.UnsupportedError), match="double_backward"):
        h.hvp(f, X[0], V[0], method="double_vjp", strict=True)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).mean()


class WrongLoss(torch.autograd.Function):
    """Half the squared error, whose Hessian by the outputs is twice too large."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return ((a - b) ** 2).sum() / 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        a, b = ctx.saved_tensors
        return g * (2 * a - a.detach() - b), None


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_gauss_newton_by_its_own_definition(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(dtype)
    inputs, targets = X.to(dtype), V[:, :2].to(dtype)
    n = sum(p.numel() for p in module.parameters())
    v = torch.linspace(-1, 1, n, dtype=dtype)
    before = [p.clone() for p in module.parameters()]
    for method in h.gauss_newton_vector_product.methods:
        h.gauss_newton_vector_product(module, squared_error, inputs, targets, v, method=method, verify=True)
    for method in h.gauss_newton_matrix.methods:
        h.gauss_newton_matrix(module, squared_error, inputs, targets, method=method, verify=True)
    with pytest.raises(h.VerificationError):
        h.gauss_newton_vector_product(module, WrongLoss.apply, inputs, targets, v, verify=True)
    with pytest.raises(h.VerificationError):
        h.gauss_newton_matrix(module, WrongLoss.apply, inputs, targets, verify=True)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_derivative_of_rounding_size_is_right(dtype: torch.dtype) -> None:
    # What is constant or linear has no second derivative but rounding, at any scale.
    for x in (
        torch.tensor(0.37, dtype=dtype),
        torch.tensor([3e4, -2.0], dtype=dtype),
        torch.tensor([1e-3], dtype=dtype),
    ):
        for f in (
            lambda x: (x.square() / x.square()).sum(),
            lambda x: (3 * x - x * 3).sum(),
            lambda x: (x.exp().log()).sum(),
        ):
            h.hvp(f, x.clamp(max=5), torch.ones_like(x), verify=True)


def test_strict_on_operators_of_other_things() -> None:
    with pytest.raises(FloatingPointError, match="hessian_trace"):
        h.hessian_trace(lambda x: x.pow(1.5).sum(), torch.tensor([0.0, 1.0], dtype=F64), strict=True)
    assert h.laplacian(lambda p: (p**4).sum(1), torch.ones(1, 2, dtype=F64), strict=True).item() == 24
