"""Elementary functions of truncated power series, each by its recurrence: O(d²) tensor operations at degree d.

Griewank & Walther 2008, Evaluating Derivatives, §13.2 (table 13.2); powers by the route that is accurate for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hograd_core.taylor._series import (
    Coefficient,
    Series,
    add,
    constant,
    divide,
    multiply,
    negative,
    over,
    plus,
    plus_product,
    square,
    square_coefficient,
)


def weighted(u: Series) -> list[Coefficient]:
    """k u_k: the coefficients of t u'(t)."""
    return [None, *(None if c is None else c * k if k > 1 else c for k, c in enumerate(u.c[1:], 1))]


def solve_ode(u: Series, first: Tensor, slope: Callable[[list[Coefficient], int], Coefficient]) -> Series:
    """y with y' = s u' and y_0 = first: k y_k = Σ_{j=1..k} j u_j s_{k-j}.

    Args:
        u: the argument of the elementary function.
        first: its value at u_0.
        slope: (y_0 … y_k so far, k) -> s_k, the coefficient of the function's derivative along the series.

    Returns:
        The series of the function.
    """
    ju = weighted(u)
    y: list[Coefficient] = [first]
    s: list[Coefficient] = []
    for k in range(1, u.degree + 1):
        s.append(slope(y, k - 1))
        total: Coefficient = None
        for j in range(1, k + 1):
            total = plus_product(total, ju[j], s[k - j])
        y.append(over(total, k) if k > 1 else total)
    return Series(y)


def integrate(u: Series, first: Tensor, slope: Series) -> Series:
    """y with y' = slope u', for a derivative that is itself a known series."""
    return solve_ode(u, first, lambda _, k: slope.c[k])


def exp(u: Series, first: Tensor | None = None) -> Series:
    """y' = y u'."""
    return solve_ode(u, torch.exp(u.primal) if first is None else first, lambda y, k: y[k])


def expm1(u: Series) -> Series:
    """exp(u) − 1 without cancellation in the value."""
    return Series([torch.expm1(u.primal), *exp(u).c[1:]])


def log(u: Series, first: Tensor | None = None) -> Series:
    """u y' = u': u_0 y_k = u_k − (1/k) Σ_{j=1..k-1} j y_j u_{k-j}."""
    y: list[Coefficient] = [torch.log(u.primal) if first is None else first]
    jy: list[Coefficient] = [None]
    for k in range(1, u.degree + 1):
        total: Coefficient = None
        for j in range(1, k):
            total = plus_product(total, jy[j], u.c[k - j])
        coefficient = over(plus(u.c[k], None if total is None else total / -k), u.primal)
        y.append(coefficient)
        jy.append(None if coefficient is None else coefficient * k)
    return Series(y)


def log1p(u: Series) -> Series:
    """log(1 + u) without cancellation in the value."""
    return log(add(u, 1.0), torch.log1p(u.primal))


def sqrt(u: Series) -> Series:
    """y² = u: y_k = (u_k − Σ_{0<j<k} y_j y_{k-j}) / (2 y_0)."""
    root = torch.sqrt(u.primal)
    twice = root * 2
    y: list[Coefficient] = [root]
    for k in range(1, u.degree + 1):
        inner = square_coefficient([None, *y[1:], None], k)
        y.append(over(plus(u.c[k], None if inner is None else -inner), twice))
    return Series(y)


def power_real(u: Series, exponent: Tensor | float, first: Tensor | None = None) -> Series:
    """y = u^r: u y' = r u' y, so k u_0 y_k = Σ_{j=1..k} (r j − (k−j)) u_j y_{k-j}. Needs u_0 ≠ 0."""
    y: list[Coefficient] = [torch.pow(u.primal, exponent) if first is None else first]
    for k in range(1, u.degree + 1):
        total: Coefficient = None
        for j in range(1, k + 1):
            term = u.c[j]
            if isinstance(exponent, Tensor):
                total = plus_product(total, None if term is None else term * ((exponent + 1) * (j / k) - 1), y[k - j])
            else:
                total = plus_product(total, term, y[k - j], (exponent + 1) * (j / k) - 1)
        y.append(over(total, u.primal))
    return Series(y)


def compose(u: Series, derivatives: Sequence[Tensor]) -> Series:
    """φ(u) from φ(u_0), φ'(u_0), …: Σ_n φ⁽ⁿ⁾(u_0)/n! (u − u_0)ⁿ, for functions without a recurrence. O(d³).

    A derivative that is infinite reaches no coefficient below its own order.
    """
    out: list[Coefficient] = [derivatives[0], *[None] * u.degree]
    power: list[Coefficient] = [None, *u.c[1:]]
    for n in range(1, u.degree + 1):
        scaled = derivatives[n] / math.factorial(n)
        for k in range(n, u.degree + 1):
            out[k] = plus_product(out[k], scaled, power[k])
        following: list[Coefficient] = [None] * (u.degree + 1)
        for k in range(n + 1, u.degree + 1):
            for j in range(n, k):
                following[k] = plus_product(following[k], power[j], u.c[k - j])
        power = following
    return Series(out)


def power_anywhere(u: Series, exponent: Tensor) -> Series:
    """u^r for a tensor r that does not depend on t, at u_0 = 0 and for whole r at u_0 < 0 too."""
    derivatives, falling = [torch.pow(u.primal, exponent)], torch.ones_like(exponent)
    for n in range(1, u.degree + 1):
        falling = falling * (exponent - (n - 1))
        gone = falling == 0
        # Where the factor r (r−1) … has come to zero the power may be infinite: 0 · ∞ is zero here.
        value = torch.pow(torch.where(gone, 1.0, u.primal), torch.where(gone, 1.0, exponent - n))
        derivatives.append(torch.where(gone, 0.0, falling * value))
    return compose(u, derivatives)


def power_integer(u: Series, exponent: int) -> Series:
    """u^m, m >= 1, by repeated squaring: exact at u_0 = 0 too, where the recurrence of u^r divides by zero."""
    base, result = u, None
    while True:
        if exponent & 1:
            result = base if result is None else multiply(result, base)
        exponent >>= 1
        if not exponent:
            assert result is not None
            return result
        base = square(base)


def power(u: Series, exponent: float) -> Series:
    """u^r for a number r, by the route that is accurate for it."""
    if exponent == 0:
        return constant(torch.ones_like(u.primal), u.degree)
    if float(exponent).is_integer() and abs(exponent) <= 64:
        positive = power_integer(u, abs(int(exponent)))
        return positive if exponent > 0 else divide(1.0, positive)
    if exponent == 0.5:
        return sqrt(u)
    if bool((u.primal == 0).any()):
        return power_anywhere(u, torch.full_like(u.primal.detach(), exponent))
    return power_real(u, exponent)


def _quadratic(y: list[Coefficient], k: int, sign: int) -> Coefficient:
    """Coefficient k of 1 + sign y²."""
    squared = square_coefficient(y, k)
    if squared is None:
        return None
    if k == 0:
        return 1 + squared if sign > 0 else 1 - squared
    return squared if sign > 0 else -squared


def tanh(u: Series) -> Series:
    """y' = (1 − y²) u'."""
    return solve_ode(u, torch.tanh(u.primal), lambda y, k: _quadratic(y, k, -1))


def tan(u: Series) -> Series:
    """y' = (1 + y²) u'."""
    return solve_ode(u, torch.tan(u.primal), lambda y, k: _quadratic(y, k, 1))


def sigmoid(u: Series) -> Series:
    """y' = y (1 − y) u'."""

    def slope(y: list[Coefficient], k: int) -> Coefficient:
        squared = square_coefficient(y, k)
        y_k = y[k]
        if squared is None:
            return y_k
        return -squared if y_k is None else y_k - squared

    return solve_ode(u, torch.sigmoid(u.primal), slope)


def _paired(u: Series, s0: Tensor, c0: Tensor, sign: int) -> tuple[Series, Series]:
    ju = weighted(u)
    s: list[Coefficient] = [s0]
    c: list[Coefficient] = [c0]
    for k in range(1, u.degree + 1):
        s_k: Coefficient = None
        c_k: Coefficient = None
        for j in range(1, k + 1):
            s_k = plus_product(s_k, ju[j], c[k - j])
            c_k = plus_product(c_k, ju[j], s[k - j])
        s.append(over(s_k, k))
        c.append(over(c_k, sign * k))
    return Series(s), Series(c)


def sin_cos(u: Series) -> tuple[Series, Series]:
    """s' = c u', c' = −s u'."""
    return _paired(u, torch.sin(u.primal), torch.cos(u.primal), -1)


def sinh_cosh(u: Series) -> tuple[Series, Series]:
    """s' = c u', c' = s u'."""
    return _paired(u, torch.sinh(u.primal), torch.cosh(u.primal), 1)


def erf(u: Series, first: Tensor) -> Series:
    """y' = 2/√π exp(−u²) u'."""
    gauss = exp(negative(square(u))).map(lambda c: c * (2 / math.sqrt(math.pi)))
    return integrate(u, first, gauss)


def softplus(u: Series, first: Tensor) -> Series:
    """y' = σ(u) u'."""
    return integrate(u, first, sigmoid(u))
