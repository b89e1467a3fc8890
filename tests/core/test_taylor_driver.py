"""The Taylor driver: high orders against mpmath, differentiability, registered methods, edges."""

from __future__ import annotations

import gc
import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

import hograd_core
from hograd_core.taylor import Series, derivatives_along, propagate, rule
from hograd_core.taylor._jet import RULES

SCALARS = {
    "exp": (torch.exp, mpmath.exp, 0.3),
    "log": (torch.log, mpmath.log, 1.7),
    "sin": (torch.sin, mpmath.sin, 0.4),
    "cos": (torch.cos, mpmath.cos, 0.4),
    "tan": (torch.tan, mpmath.tan, 0.4),
    "tanh": (torch.tanh, mpmath.tanh, 0.6),
    "atan": (torch.atan, mpmath.atan, 0.3),
    "asin": (torch.asin, mpmath.asin, 0.3),
    "acosh": (torch.acosh, mpmath.acosh, 2.5),
    "asinh": (torch.asinh, mpmath.asinh, 0.7),
    "atanh": (torch.atanh, mpmath.atanh, 0.3),
    "erf": (torch.erf, mpmath.erf, 0.5),
    "sinh": (torch.sinh, mpmath.sinh, 0.5),
    "cosh": (torch.cosh, mpmath.cosh, 0.5),
    "sqrt": (torch.sqrt, mpmath.sqrt, 1.9),
    "rsqrt": (torch.rsqrt, lambda t: 1 / mpmath.sqrt(t), 1.9),
    "pow": (lambda x: x**2.7, lambda t: t ** mpmath.mpf("2.7"), 1.3),
    "sigmoid": (torch.sigmoid, lambda t: 1 / (1 + mpmath.exp(-t)), 0.8),
    "log1p": (torch.log1p, mpmath.log1p, 0.4),
    "softplus": (F.softplus, lambda t: mpmath.log(1 + mpmath.exp(t)), 0.4),
    "lgamma": (torch.lgamma, mpmath.loggamma, 2.3),
    "gelu": (F.gelu, lambda t: t * (1 + mpmath.erf(t / mpmath.sqrt(2))) / 2, 0.7),
    "pow9": (lambda x: x**9, lambda t: t**9, 0.9),
    "nested": (lambda x: torch.tanh(torch.exp(torch.sin(x))), lambda t: mpmath.tanh(mpmath.exp(mpmath.sin(t))), 0.2),
}


@pytest.mark.parametrize("name", SCALARS)
def test_order_8_against_mpmath(name: str) -> None:
    function, exact, at = SCALARS[name]
    x = torch.tensor(at, dtype=torch.float64)
    found = derivatives_along(function, x, torch.ones_like(x), 8)
    with mpmath.workdps(60):
        truth = [float(mpmath.factorial(k) * c) for k, c in enumerate(mpmath.taylor(exact, mpmath.mpf(x.item()), 8))]
    # PyTorch's own polygamma functions are good to ten digits.
    tolerance = 1e-9 if name == "lgamma" else 1e-12
    for k, (ours, true) in enumerate(zip(found, truth, strict=True)):
        assert ours.item() == pytest.approx(true, rel=tolerance, abs=tolerance), f"order {k}"


def test_a_power_at_zero_is_exact() -> None:
    found = derivatives_along(
        lambda x: x**3, torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), 5
    )
    assert [float(c) for c in found] == [0, 0, 0, 6, 0, 0]


def test_a_general_series_goes_in() -> None:
    # exp(t + t²) has coefficients Σ_j 1/((k-2j)! j!) of powers.
    one = torch.ones((), dtype=torch.float64)
    found = propagate(torch.exp, [one * 0, one, one, None, None])
    truth = [sum(1 / (math.factorial(k - 2 * j) * math.factorial(j)) for j in range(k // 2 + 1)) for k in range(5)]
    assert [c.item() for c in found] == pytest.approx(truth, rel=1e-14)


def test_batches_of_points_go_in_together() -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    together = derivatives_along(torch.sin, x, torch.ones_like(x), 4)
    for k, expected in enumerate((x.sin(), x.cos(), -x.sin(), -x.cos(), x.sin())):
        torch.testing.assert_close(together[k], expected)


@pytest.mark.parametrize("order", range(6))
def test_registered_methods_agree_with_nesting(order: int) -> None:
    generator = torch.Generator().manual_seed(order)
    w = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    x, v = torch.randn(2, 5, generator=generator, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(x @ w).sin() @ w).square().sum()

    if order:
        scalar = hograd_core.directional_derivative(f, x, v, order, method="taylor")
        torch.testing.assert_close(scalar, hograd_core.directional_derivative(f, x, v, order, method="nested_grad"))
        vector = hograd_core.derivative_vector_product(f, x, v, order, method="reverse_over_taylor")
        torch.testing.assert_close(vector, hograd_core.derivative_vector_product(f, x, v, order))
        other = hograd_core.derivative_vector_product(f, x, v, order, method="taylor_over_reverse")
        torch.testing.assert_close(other, vector)
        assert not other.requires_grad
        assert not vector.requires_grad
        assert not scalar.requires_grad
    else:
        torch.testing.assert_close(derivatives_along(f, x, v, 0)[0], f(x))


def test_parameters_stay_differentiable() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    x = torch.randn(3, 2, dtype=torch.float64)
    v = torch.randn(3, 2, dtype=torch.float64)
    second = derivatives_along(net, x, v, 2)[2]
    ours = torch.autograd.grad(second.square().sum(), list(net.parameters()), allow_unused=True)

    t = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(net(x + t * v).sum(), t, create_graph=True)
    (nested,) = torch.autograd.grad(first.sum(), t, create_graph=True)
    truth = torch.autograd.grad(nested.square().sum(), list(net.parameters()), allow_unused=True)
    for a, b in zip(ours, truth, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("method", ["reverse_over_taylor", "taylor_over_reverse"])
def test_products_through_a_convolutional_network(method: str) -> None:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.nn.SiLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten())
    net = torch.nn.Sequential(*layers, torch.nn.Linear(2, 3), torch.nn.Softplus()).double()
    f, x = hograd_core.from_module(
        net, lambda y, t: F.cross_entropy(y, t), (torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 2]))
    )
    v = torch.randn_like(x)
    for order in (1, 2, 3):
        ours = hograd_core.derivative_vector_product(f, x, v, order, method=method)
        torch.testing.assert_close(ours, hograd_core.derivative_vector_product(f, x, v, order))


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_has_products_of_any_order(causal: bool) -> None:
    """PyTorch's fused kernel has a gradient and no more; on series its definition is used."""
    x, v = torch.randn(2, 1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def fused(x: Tensor) -> Tensor:
        return (F.scaled_dot_product_attention(x, x.sin(), 2 * x, is_causal=causal) ** 2).sum()

    def by_hand(x: Tensor) -> Tensor:
        scores = x @ x.sin().mT / 2
        if causal:
            scores = scores.masked_fill(torch.ones(3, 3).tril() == 0, -math.inf)
        return ((scores.softmax(-1) @ (2 * x)) ** 2).sum()

    for order in (1, 2, 3):
        exact = hograd_core.derivative_vector_product(by_hand, x, v, order)
        for method in ("reverse_over_taylor", "taylor_over_reverse"):
            found = hograd_core.derivative_vector_product(fused, x, v, order, method=method)
            torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_follows_x(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, 1.5], dtype=dtype)
    for c in derivatives_along(lambda x: (x.sin() * 2 + x / 3 - 1).exp().mean(), x, x, 3):
        assert c.dtype == dtype


def test_runs_under_inference_mode_and_no_grad() -> None:
    x = torch.ones((), dtype=torch.float64)
    weight = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = derivatives_along(lambda x: F.linear(x.reshape(1, 1), weight).tanh().sum(), x.clone(), x.clone(), 2)
            assert not out[2].requires_grad


def test_nothing_is_kept_after_a_hundred_steps() -> None:
    x = torch.randn(500, dtype=torch.float64)

    def retained() -> int:
        gc.collect()
        return sum(1 for o in gc.get_objects() if issubclass(type(o), Tensor))

    def step() -> None:
        hograd_core.directional_derivative(lambda x: x.tanh().sum(), x, x, 3, method="taylor")
        for method in ("reverse_over_taylor", "taylor_over_reverse"):
            hograd_core.derivative_vector_product(lambda x: x.tanh().sum(), x, x, 3, method=method)

    step()
    before = retained()
    for _ in range(100):
        step()
    assert retained() <= before


def test_pytorch_layer_norm_has_a_wrong_third_derivative() -> None:
    """Why the truth of the normalisations is their definition (pytorch/pytorch#175754).

    If this fails, PyTorch has been mended: say so, and compare with it.
    """
    x = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v, w = x.cos(), x.sin()

    def by_hand(x: Tensor) -> Tensor:
        centred = x - x.mean()
        return (centred * torch.rsqrt((centred * centred).mean() + 1e-5) * w).sum()

    def fused(x: Tensor) -> Tensor:
        return (F.layer_norm(x, (8,)) * w).sum()

    exact = hograd_core.directional_derivative(by_hand, x, v, 3, method="nested_grad")
    torch.testing.assert_close(hograd_core.directional_derivative(fused, x, v, 3, method="taylor"), exact)
    step = 1e-3
    second = [hograd_core.directional_derivative(fused, x + s * v, v, 2, method="nested_grad") for s in (-step, step)]
    torch.testing.assert_close((second[1] - second[0]) / (2 * step), exact, rtol=1e-4, atol=1e-4)
    with pytest.raises(hograd_core.UnsupportedError, match="layer_norm"):
        hograd_core.directional_derivative(fused, x, v, 3, method="nested_grad")
    wrong = hograd_core.directional_derivative.unguarded(fused, x, v, 3, method="nested_grad")
    assert abs(wrong - exact) > 1e-2 * abs(exact)


def test_a_rule_can_be_added_and_not_twice() -> None:
    operation = torch.ops.aten.logcumsumexp
    x = torch.randn(4, 2, dtype=torch.float64)
    with pytest.raises(hograd_core.UnsupportedError, match="logcumsumexp"):
        derivatives_along(lambda x: torch.logcumsumexp(x, 0).sum(), x, x.cos(), 2)
    try:

        @rule(operation)
        def logcumsumexp(u: Series, dim: int) -> Series:
            from hograd_core.taylor import _functions as s

            return s.log(s.exp(u).map(lambda c: c.cumsum(dim)))

        found = derivatives_along(lambda x: torch.logcumsumexp(x, 0).sum(), x, x.cos(), 2)[2]
        truth = derivatives_along(lambda x: x.exp().cumsum(0).log().sum(), x, x.cos(), 2)[2]
        torch.testing.assert_close(found, truth)
        with pytest.raises(ValueError, match="twice"):
            rule(operation)(logcumsumexp)
    finally:
        RULES.pop(operation, None)


def test_errors_name_the_argument() -> None:
    x = torch.ones(2)
    with pytest.raises(TypeError, match="f: got int"):
        propagate(3, [x, x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="coefficients"):
        propagate(torch.sin, [])
    with pytest.raises(ValueError, match=r"coefficients\[1\]"):
        propagate(torch.sin, [x, x.double()])
    with pytest.raises(TypeError, match="returned float"):
        propagate(lambda x: 3.0, [x, x])  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="order"):
        derivatives_along(torch.sin, x, x, -1)
