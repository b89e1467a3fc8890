"""Arithmetic on truncated power series u(t) = Σ_k u_k tᵏ whose coefficients are tensors.

Recurrences: Griewank & Walther 2008, Evaluating Derivatives, §13.2 (tables 13.1 and 13.2): a product, a quotient
and every elementary function cost O(d²) tensor operations at degree d. Nothing is written in place, so autograd
can differentiate the coefficients (with respect to x, or to parameters that f closes over).

A coefficient of degree >= 1 may be None: structurally zero. It costs nothing, which matters because the
series put in, x + t v, has only two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Coefficient = Tensor | None


class Series:
    """A truncated power series: ``c[k]`` is the coefficient of tᵏ; ``c[0]`` is never None."""

    __slots__ = ("c",)

    def __init__(self, coefficients: Sequence[Coefficient]) -> None:
        self.c = list(coefficients)

    @property
    def primal(self) -> Tensor:
        """The value at t = 0."""
        first = self.c[0]
        assert first is not None
        return first

    @property
    def degree(self) -> int:
        """The highest power kept."""
        return len(self.c) - 1

    def map(self, function: Callable[[Tensor], Tensor]) -> Series:
        """Apply a linear function to every coefficient."""
        return Series([None if c is None else function(c) for c in self.c])


Operand = Series | Tensor | float | int


def constant(value: Tensor, degree: int) -> Series:
    """The series that does not depend on t."""
    return Series([value, *[None] * degree])


def plus(a: Coefficient, b: Coefficient) -> Coefficient:
    """a + b where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def plus_product(total: Coefficient, a: Coefficient, b: Coefficient, weight: float = 1) -> Coefficient:
    """total + weight a b where None is zero; one fused operation where it can be."""
    if a is None or b is None or weight == 0:
        return total
    if total is None:
        return a * b if weight == 1 else a * b * weight
    return torch.addcmul(total, a, b, value=weight)


def over(a: Coefficient, b: Tensor | float) -> Coefficient:
    """a / b where None is zero."""
    return None if a is None else a / b


def add(a: Operand, b: Operand, alpha: float = 1) -> Series:
    """a + alpha b; one of them may be a constant."""
    if isinstance(a, Series) and isinstance(b, Series):
        scaled = b if alpha == 1 else b.map(lambda c: c * alpha)
        return Series([plus(x, y) for x, y in zip(a.c, scaled.c, strict=True)])
    if isinstance(a, Series):
        assert not isinstance(b, Series)
        return Series([torch.add(a.primal, b, alpha=alpha), *a.c[1:]])
    assert isinstance(b, Series)
    scaled = b if alpha == 1 else b.map(lambda c: c * alpha)
    return Series([a + scaled.primal, *scaled.c[1:]])


def negative(a: Series) -> Series:
    """-a."""
    return a.map(torch.neg)


def multiply(a: Operand, b: Operand) -> Series:
    """a b: (ab)_k = Σ_j a_j b_{k-j}; one of them may be a constant."""
    if not isinstance(a, Series):
        a, b = b, a
    assert isinstance(a, Series)
    if not isinstance(b, Series):
        return a.map(lambda c: c * b)
    if a is b:
        return square(a)
    return bilinear(a, b, torch.mul, plus_product)


def bilinear(
    a: Series,
    b: Series,
    product: Callable[[Tensor, Tensor], Tensor],
    accumulate: Callable[[Coefficient, Coefficient, Coefficient], Coefficient] | None = None,
) -> Series:
    """The Cauchy product under any bilinear map."""

    def add_product(total: Coefficient, x: Coefficient, y: Coefficient) -> Coefficient:
        return total if x is None or y is None else plus(total, product(x, y))

    step = accumulate or add_product
    out: list[Coefficient] = [product(a.primal, b.primal)]
    for k in range(1, a.degree + 1):
        total: Coefficient = None
        for j in range(k + 1):
            total = step(total, a.c[j], b.c[k - j])
        out.append(total)
    return Series(out)


def square_coefficient(y: Sequence[Coefficient], k: int) -> Coefficient:
    """(y²)_k from y_0 … y_k, using symmetry: half the products."""
    total: Coefficient = None
    for j in range((k + 1) // 2):
        total = plus_product(total, y[j], y[k - j])
    if total is not None:
        total = total * 2
    return plus_product(total, y[k // 2], y[k // 2]) if k % 2 == 0 else total


def square(a: Series) -> Series:
    """a²."""
    return Series([square_coefficient(a.c, k) for k in range(a.degree + 1)])


def divide(a: Operand, b: Operand) -> Series:
    """y = a / b: y_k = (a_k − Σ_{j<k} y_j b_{k-j}) / b_0."""
    if not isinstance(b, Series):
        assert isinstance(a, Series)
        return a.map(lambda c: c / b)
    numerators: list[Coefficient]
    if isinstance(a, Series):
        numerators = a.c
        first = a.primal / b.primal
    else:
        numerators = [None] * (b.degree + 1)
        first = a / b.primal
    y: list[Coefficient] = [first]
    for k in range(1, b.degree + 1):
        total = numerators[k]
        for j in range(k):
            total = plus_product(total, y[j], b.c[k - j], -1)
        y.append(over(total, b.primal))
    return Series(y)


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


def one_plus(u: Series, sign: int = 1) -> Series:
    """1 + sign u²."""
    squared = square(u)
    return add(squared if sign > 0 else negative(squared), 1.0)


def erf(u: Series, first: Tensor) -> Series:
    """y' = 2/√π exp(−u²) u'."""
    gauss = exp(negative(square(u))).map(lambda c: c * (2 / math.sqrt(math.pi)))
    return integrate(u, first, gauss)


def softplus(u: Series, first: Tensor) -> Series:
    """y' = σ(u) u'."""
    return integrate(u, first, sigmoid(u))
