"""Rules of elementwise operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core.taylor import _functions as functions
from hograd_core.taylor import _series as s
from hograd_core.taylor._jet import aten, rule
from hograd_core.taylor._series import Operand, Series


def _pair(a: Operand, b: Operand) -> tuple[Operand, Operand]:
    """Both operands in their common dtype, as ATen's type promotion has it."""
    pa = a.primal if isinstance(a, Series) else a
    pb = b.primal if isinstance(b, Series) else b
    if not (isinstance(pa, Tensor) and isinstance(pb, Tensor)) or pa.dtype == pb.dtype:
        return a, b
    dtype = torch.result_type(pa, pb)
    return tuple(x.map(lambda c: c.to(dtype)) if isinstance(x, Series) else x.to(dtype) for x in (a, b))  # type: ignore[union-attr, return-value]


@rule(aten.add)
def _add(a: Operand, b: Operand, *, alpha: float = 1) -> Series:
    return s.add(*_pair(a, b), alpha=alpha)


@rule(aten.sub)
def _sub(a: Operand, b: Operand, *, alpha: float = 1) -> Series:
    return s.add(*_pair(a, b), alpha=-alpha)


@rule(aten.rsub)
def _rsub(a: Operand, b: Operand, alpha: float = 1) -> Series:
    return s.add(*_pair(b, a), alpha=-alpha)


@rule(aten.mul)
def _mul(a: Operand, b: Operand) -> Series:
    return s.multiply(*_pair(a, b))


@rule(aten.div)
def _div(a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        return aten.div(_primal(a), _primal(b), rounding_mode=rounding_mode)
    return s.divide(*_pair(a, b))


@rule(aten.reciprocal)
def _reciprocal(u: Series) -> Series:
    return s.divide(1.0, u)


@rule(aten.addcmul)
def _addcmul(base: Operand, a: Operand, b: Operand, *, value: float = 1) -> Series:
    product = s.product(a, b)
    return s.add(base, product, alpha=value) if isinstance(product, Series) else s.add(base, product * value)


@rule(aten.addcdiv)
def _addcdiv(base: Operand, a: Operand, b: Operand, *, value: float = 1) -> Series:
    quotient = s.divide(a, b) if isinstance(a, Series) or isinstance(b, Series) else a / b
    return s.add(base, quotient, alpha=value) if isinstance(quotient, Series) else s.add(base, quotient * value)


@rule(aten.lerp)
def _lerp(start: Operand, end: Operand, weight: Operand) -> Series:
    both = isinstance(start, Series) or isinstance(end, Series)
    difference: Operand = s.add(end, start, alpha=-1) if both else end - start  # type: ignore[operator]
    return s.add(start, s.product(weight, difference))


def _primal(a: Operand) -> Any:
    return a.primal if isinstance(a, Series) else a


@rule(aten.pow, aten.float_power)
def _pow(u: Operand, exponent: Operand) -> Series:
    if isinstance(exponent, Series):
        if not isinstance(u, Series):
            return _exponential(u, exponent)
        return functions.exp(s.multiply(exponent, _log_of(u)), torch.pow(_primal(u), exponent.primal))
    assert isinstance(u, Series)
    if isinstance(exponent, Tensor):
        if exponent.dim() == 0 and not exponent.requires_grad:
            return functions.power(u, exponent.item())
        if not exponent.is_floating_point() and not exponent.is_complex():
            exponent = exponent.to(u.primal.dtype)
        return functions.power_anywhere(u, exponent)
    return functions.power(u, exponent)


def _exponential(base: Tensor | float, exponent: Series) -> Series:
    """bᵘ; 0ᵘ is zero near any u > 0."""
    value = torch.pow(base, exponent.primal)
    base = torch.as_tensor(base, dtype=value.dtype, device=value.device)
    flat = (base == 0) & (exponent.primal.real > 0)
    rate = torch.log(torch.where(flat, 1.0, base))
    return functions.exp(s.multiply(exponent, rate), value)


def _log_of(u: Operand) -> Operand:
    if isinstance(u, Series):
        return functions.log(u)
    return torch.log(u) if isinstance(u, Tensor) else math.log(u)


def _unary(operation: Any, function: Callable[[Series], Series]) -> None:
    rule(operation)(function)


def _cosine_of(u: Series) -> Series:
    return functions.sin_cos(u)[1]


def _sinh(u: Series) -> Series:
    return functions.sinh_cosh(u)[0]


def _scaled_exp(base: float) -> Callable[[Series], Series]:
    def function(u: Series) -> Series:
        return functions.exp(u.map(lambda c: c * math.log(base)), torch.pow(base, u.primal))

    return function


def _scaled_log(operation: Callable[[Tensor], Tensor], base: float) -> Callable[[Series], Series]:
    def function(u: Series) -> Series:
        scaled = functions.log(u).map(lambda c: c / math.log(base))
        return Series([operation(u.primal), *scaled.c[1:]])

    return function


def _inverse(operation: Callable[[Tensor], Tensor], slope: Callable[[Series], Series]) -> Callable[[Series], Series]:
    """The rule of a function whose derivative is ``slope`` of its argument."""

    def function(u: Series) -> Series:
        return functions.integrate(u, operation(u.primal), slope(u))

    return function


for _operation, _function in (
    (aten.neg, s.negative),
    (aten.square, s.square),
    (aten.exp, functions.exp),
    (aten.exp2, _scaled_exp(2.0)),
    (aten.expm1, functions.expm1),
    (aten.log, functions.log),
    (aten.log2, _scaled_log(torch.log2, 2.0)),
    (aten.log10, _scaled_log(torch.log10, 10.0)),
    (aten.log1p, functions.log1p),
    (aten.sqrt, functions.sqrt),
    (aten.rsqrt, lambda u: functions.power_real(u, -0.5, torch.rsqrt(u.primal))),
    (aten.sin, lambda u: functions.sin_cos(u)[0]),
    (aten.cos, _cosine_of),
    (aten.tan, functions.tan),
    (aten.sinh, _sinh),
    (aten.cosh, lambda u: functions.sinh_cosh(u)[1]),
    (aten.tanh, functions.tanh),
    (aten.sigmoid, functions.sigmoid),
    (aten.silu, lambda u: s.multiply(u, functions.sigmoid(u))),
    (aten.asin, _inverse(torch.asin, lambda u: functions.power_real(s.one_plus(u, -1), -0.5))),
    (aten.acos, _inverse(torch.acos, lambda u: s.negative(functions.power_real(s.one_plus(u, -1), -0.5)))),
    (aten.atan, _inverse(torch.atan, lambda u: s.divide(1.0, s.one_plus(u)))),
    (aten.asinh, _inverse(torch.asinh, lambda u: functions.power_real(s.one_plus(u), -0.5))),
    (aten.acosh, _inverse(torch.acosh, lambda u: functions.power_real(s.add(s.square(u), -1.0), -0.5))),
    (aten.atanh, _inverse(torch.atanh, lambda u: s.divide(1.0, s.one_plus(u, -1)))),
    (aten.erf, lambda u: functions.erf(u, torch.erf(u.primal))),
    (aten.erfc, lambda u: s.negative(functions.erf(u, -torch.erfc(u.primal)))),
    (aten.log_sigmoid_forward, lambda u: (_log_sigmoid(u), torch.empty_like(u.primal))),
    (aten.erfinv, lambda u: functions.solve_ode(u, torch.erfinv(u.primal), _erfinv_slope)),
):
    _unary(_operation, _function)  # type: ignore[arg-type]


def _erfinv_slope(y: list[s.Coefficient], k: int) -> s.Coefficient:
    """√π/2 exp(y²)."""
    grown = functions.exp(s.square(Series(y))).c[k]
    return None if grown is None else grown * (math.sqrt(math.pi) / 2)


@rule(aten.log_sigmoid_backward)
def _log_sigmoid_backward(g: Operand, u: Operand, _: Operand) -> Operand:
    # The buffer that the forward saves on the CPU is not read: σ(−u) again, as a series.
    if isinstance(u, Series):
        return s.product(g, functions.sigmoid(s.negative(u)))
    return s.product(g, torch.sigmoid(-u))  # type: ignore[arg-type]


def _log_sigmoid(u: Series) -> Series:
    return s.negative(functions.softplus(s.negative(u), -torch.nn.functional.logsigmoid(u.primal)))


def _atan2_series(a: Series, b: Series) -> Series:
    """y' = (a' b − b' a) / (a² + b²)."""
    scale = s.add(s.square(a), s.square(b))
    # Coefficients of t (a'b − b'a): the weights k turn a derivative into a product of series.
    da, db = functions.weighted(a), functions.weighted(b)
    top: list[s.Coefficient] = []
    for k in range(a.degree + 1):
        total: s.Coefficient = None
        for j in range(1, k + 1):
            total = s.plus_product(total, da[j], b.c[k - j])
            total = s.plus_product(total, db[j], a.c[k - j], -1)
        top.append(total)
    top[0] = torch.zeros_like(scale.primal)
    slopes = s.divide(Series(top), scale)
    first = torch.atan2(a.primal, b.primal)
    return Series([first, *(s.over(slopes.c[k], k) for k in range(1, a.degree + 1))])


@rule(aten.atan2)
def _atan2(a: Operand, b: Operand) -> Series:
    degree = (a if isinstance(a, Series) else b).degree  # type: ignore[union-attr]
    full = [x if isinstance(x, Series) else s.constant(x, degree) for x in (a, b)]  # type: ignore[arg-type]
    return _atan2_series(*full)


@rule(aten.hypot)
def _hypot(a: Operand, b: Operand) -> Series:
    first, second = (s.square(x) if isinstance(x, Series) else x * x for x in (a, b))
    return functions.sqrt(s.add(first, second))


@rule(aten.gelu)
def _gelu(u: Series, *, approximate: str = "none") -> Series:
    if approximate == "tanh":
        # Hendrycks & Gimpel 2016, eq. 2.
        cubic = s.add(u, functions.power_integer(u, 3), alpha=0.044715)
        gate = functions.tanh(cubic.map(lambda c: c * math.sqrt(2 / math.pi)))
    else:
        scaled = u.map(lambda c: c * math.sqrt(0.5))
        gate = functions.erf(scaled, torch.erf(scaled.primal))
    return s.multiply(u.map(lambda c: c * 0.5), s.add(gate, 1.0))


@rule(aten.softplus)
def _softplus(u: Series, beta: float = 1.0, threshold: float = 20.0) -> Series:
    primal = torch.nn.functional.softplus(u.primal, beta, threshold)
    smooth = functions.softplus(u.map(lambda c: c * beta), primal * beta).map(lambda c: c / beta)
    linear = u.primal * beta > threshold
    higher = [
        c if c is None else torch.where(linear, torch.zeros_like(c) if u_k is None else u_k, c)
        for c, u_k in zip(smooth.c[1:], u.c[1:], strict=True)
    ]
    return Series([primal, *higher])


@rule(aten.logaddexp)
def _logaddexp(a: Operand, b: Operand) -> Series:
    # log(eᵃ + eᵇ) = b + softplus(a − b), smooth on both sides.
    difference = s.add(a, b, alpha=-1)
    primal = torch.logaddexp(_primal(a), _primal(b))
    smooth = s.add(b, functions.softplus(difference, torch.nn.functional.softplus(difference.primal)))
    return Series([primal, *smooth.c[1:]])


@rule(aten.xlogy)
def _xlogy(a: Operand, u: Operand) -> Series:
    result = s.product(a, _log_of(u))
    assert isinstance(result, Series)
    if not isinstance(a, Series):
        # 0 log u is zero for every u.
        none = torch.as_tensor(a) == 0
        result = result.map(lambda c: torch.where(none, 0.0, c))
    return Series([torch.xlogy(_primal(a), _primal(u)), *result.c[1:]])


def _polygammas(u: Series, start: int) -> Series:
    """lgamma (start −1) or digamma (start 0): their derivatives are the polygamma functions."""
    values = [
        torch.lgamma(u.primal) if n < 0 else torch.polygamma(n, u.primal) for n in range(start, start + u.degree + 1)
    ]
    return functions.compose(u, values)


@rule(aten.lgamma)
def _lgamma(u: Series) -> Series:
    return _polygammas(u, -1)


@rule(aten.digamma)
def _digamma(u: Series) -> Series:
    return _polygammas(u, 0)


def _on_values(operation: Any) -> Callable[..., Any]:
    """The rule of an operation whose derivative is zero wherever it exists: its value alone."""

    def function(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return operation(*(_primal(a) for a in args), **{k: _primal(v) for k, v in kwargs.items()})

    return function


for _operation in (
    aten.sign, aten.floor, aten.ceil, aten.round, aten.trunc, aten.heaviside, aten.floor_divide,
    aten.gt, aten.ge, aten.lt, aten.le, aten.eq, aten.ne, aten.isnan, aten.isinf, aten.isfinite,
    aten.logical_and, aten.logical_or, aten.logical_not, aten.logical_xor, aten.signbit, aten.equal,
    aten.argmax, aten.argmin, aten.argsort, aten.any, aten.all,
    aten.bucketize, aten.searchsorted, aten.nonzero, aten.count_nonzero, aten._local_scalar_dense,
    aten.rand_like, aten.randn_like,
):  # fmt: skip
    rule(_operation)(_on_values(_operation))
