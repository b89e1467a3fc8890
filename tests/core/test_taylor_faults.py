"""Derivatives by Taylor mode where a formula's saved value, branch or cast once hid a dependence on t."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

import hograd_core
from hograd_core.taylor import MissingRuleError, derivatives_along


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


ONE, TWO, NAN = t(1), t(1, 1), math.nan
EYE = torch.eye(2, dtype=torch.float64)
TWICE = torch.tensor([0, 0])

# name: f, x, v, order, and Dᵏf(x)[v, …, v, ·] in closed form.
CLOSED = {
    "complex_cast": (lambda x: (x.to(torch.complex128) ** 2).real.sum(), ONE, ONE, 2, t(2)),
    "logsigmoid": (lambda x: F.logsigmoid(x).sum(), t(0), ONE, 2, t(-0.25)),
    "logdet": (torch.logdet, EYE, EYE, 2, -EYE),
    "solve": (lambda x: torch.linalg.solve(x.view(1, 1), ONE).sum(), t(2), ONE, 2, t(0.25)),
    "cumprod_at_zero": (lambda x: torch.cumprod(x, 0)[1], t(2, 0), TWO, 2, t(1, 1)),
    "complex_sgn": (
        lambda x: torch.exp(1j * x).sum().abs(), t(0, 1), t(1, 0), 2, math.cos(0.5) / 2 * t(-1, 1),
    ),
    "vdot": (lambda x: torch.vdot(1j * x, 1j * x).real, TWO, TWO, 2, t(2, 2)),
    "complex_norm": (lambda x: torch.linalg.vector_norm((1 + 1j) * x) ** 2, t(1, 2), TWO, 2, t(4, 4)),
    "complex_var": (lambda x: (1j * x).var(correction=0), t(1, 2), t(1, 0), 2, t(0.5, -0.5)),
    "sinc_at_zero": (lambda x: torch.sinc(x).sum(), t(0), ONE, 2, t(-(math.pi**2) / 3)),
    "sinc_order_4": (lambda x: torch.sinc(x).sum(), t(0), ONE, 4, t(math.pi**4 / 5)),
    "tensor_power_at_zero": (lambda x: (x ** t(2, 3)).sum(), t(0, 0), TWO, 2, t(2, 0)),
    "tensor_power_of_whole_numbers": (lambda x: (x ** torch.tensor([3, 2])).sum(), t(0, -2), TWO, 3, t(6, 0)),
    "real_power_at_zero": (lambda x: (x**3.5).sum(), t(0, 1), TWO, 3, t(0, 13.125)),
    "zero_to_a_power": (lambda x: (torch.zeros(1, dtype=torch.float64) ** x).sum(), ONE, ONE, 2, t(0)),
    "xlogy_at_zero": (lambda x: torch.xlogy(t(0, 2), x).sum(), t(1, 1), TWO, 2, t(0, -2)),
    "nansum": (lambda x: (x**2).nansum(), t(NAN, 1, 2), t(1, 1, 1), 2, t(0, 2, 2)),
    "nanmean": (lambda x: (x**2).nanmean(), t(NAN, 1, 2), t(1, 1, 1), 2, t(0, 1, 1)),
    "nanmedian": (lambda x: x.nanmedian() ** 2, t(NAN, 1, 2), t(1, 1, 1), 2, t(0, 2, 0)),
    "divide_by_a_variable": (lambda x: (t(5.3) % x).pow(2).sum(), t(2), ONE, 2, t(8)),
    "fmod_of_a_negative": (lambda x: torch.fmod(x, 2.0).pow(3).sum(), t(-3.5), ONE, 2, t(-9)),
    "norm_0": (lambda x: F.normalize(x.view(1, 2), p=0.0).pow(2).sum(), t(1, 2), TWO, 2, t(0.5, 0.5)),
    "polar": (lambda x: torch.polar(x[:1], x[1:]).real.sum(), t(1, 0), t(0, 1), 2, t(0, -1)),
    "triangular": (
        lambda x: torch.linalg.solve_triangular(x.view(1, 1), ONE.view(1, 1), upper=True).sum(), t(2), ONE, 2, t(0.25),
    ),
}  # fmt: skip

# Right to order 2 by double backward.
PLAIN = {
    "silu": (F.silu, rand(2, 4)),
    "mish": (F.mish, rand(2, 4)),
    "logit": (lambda x: torch.logit(x.sigmoid()), rand(2, 4)),
    "erfinv": (lambda x: torch.erfinv(x.tanh()), rand(4)),
    "batch_norm_1d": (lambda x: F.batch_norm(x, None, None, training=True), rand(3, 3, 3)),
    "batch_norm_2d": (lambda x: F.batch_norm(x, None, None, training=True), rand(2, 3, 2, 2)),
    "instance_norm": (F.instance_norm, rand(2, 3, 4)),
    "group_norm_gelu": (lambda x: F.gelu(F.group_norm(x, 2)), rand(2, 4, 3)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), rand(1, 1, 4, 4)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 2), rand(1, 1, 4, 4)),
    "local_response_norm": (lambda x: F.local_response_norm(x, 2), rand(1, 4, 3)),
    "ihfft": (lambda x: torch.view_as_real(torch.fft.ihfft(x).resolve_conj()), rand(6)),
    "hfft": (torch.fft.hfft, rand(4)),
}
# Their backward writes into a view of a plain tensor.
REFUSED = {("ihfft", "taylor_over_reverse"), ("hfft", "taylor_over_reverse")}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name: str) -> None:
    f, x, v, order, exact = CLOSED[name]
    for method in ("reverse_over_taylor", "taylor_over_reverse"):
        found = hograd_core.derivative_vector_product(f, x, v, order, method=method)
        torch.testing.assert_close(found, exact, msg=lambda text, method=method: f"{method}: {text}")
    scalar = hograd_core.directional_derivative(f, x, v, order, method="taylor")
    torch.testing.assert_close(scalar, (exact * v).sum())


@pytest.mark.parametrize("name", PLAIN)
def test_second_order_agrees_with_double_backward(name: str) -> None:
    function, x = PLAIN[name]
    v = x.cos()

    def f(x: Tensor) -> Tensor:
        y = function(x)
        return (y**3 * torch.arange(1, y.numel() + 1, dtype=y.dtype).reshape(y.shape)).sum()

    exact = hograd_core.hvp(f, x, v)
    for method in ("reverse_over_taylor", "taylor_over_reverse"):
        if (name, method) in REFUSED:
            with pytest.raises(MissingRuleError):
                hograd_core.hvp(f, x, v, method=method)
        else:
            torch.testing.assert_close(hograd_core.hvp(f, x, v, method=method), exact)
    torch.testing.assert_close(hograd_core.directional_derivative(f, x, v, 2, method="taylor"), (exact * v).sum())


def test_a_copy_with_an_index_given_twice_follows_the_copy_that_stays() -> None:
    x, v = t(1, 2, 3), t(1, 1, 1)
    for f, exact in (
        (lambda x: x.index_fill(0, TWICE, x[1]).pow(2).sum(), t(0, 4, 2)),
        (lambda x: x.index_copy(0, TWICE, x[1:]).pow(2).sum(), t(0, 2, 4)),
        (lambda x: x.scatter(0, TWICE, x[1:]).pow(2).sum(), t(0, 2, 4)),
    ):
        found = hograd_core.hvp(f, x, v, method="reverse_over_taylor")
        torch.testing.assert_close(found, exact)


def test_what_a_rule_cannot_do_is_named_and_errors_of_f_stay_as_they_are() -> None:
    x = rand(2, 2)
    with pytest.raises(MissingRuleError, match=r"matrix_exp.*reached at test_taylor_faults\.py"):
        derivatives_along(lambda x: torch.matrix_exp(x), x, x, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        derivatives_along(lambda x: x @ rand(3, 2), x, x, 2)
    assert not isinstance(caught.value, MissingRuleError)


def test_distances_and_rows_without_any_key_have_products_by_every_taylor_method() -> None:
    x, fixed = rand(3, 2), rand(4, 2).cos()
    dead = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf], [0.0, 0.0]], dtype=torch.float64)
    pairs = (
        (lambda x: torch.cdist(x, fixed).sin().sum(), lambda x: ((x[:, None] - fixed) ** 2).sum(-1).sqrt().sin().sum()),
        (lambda x: (torch.ops.aten._safe_softmax(x + dead, -1) ** 2).sum(), lambda x: (x[2].softmax(-1) ** 2).sum()),
    )
    for f, by_hand in pairs:
        exact = hograd_core.hvp(by_hand, x, x.cos())
        for method in ("reverse_over_taylor", "taylor_over_reverse"):
            torch.testing.assert_close(hograd_core.hvp(f, x, x.cos(), method=method), exact)
