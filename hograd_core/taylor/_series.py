"""Arithmetic on truncated power series u(t) = Σ_k u_k tᵏ whose coefficients are tensors.

Griewank & Walther 2008, Evaluating Derivatives, §13.2 (table 13.1): a product and a quotient cost O(d²) tensor
operations at degree d. Nothing is written in place, so autograd
can differentiate the coefficients (with respect to x, or to parameters that f closes over).

A coefficient of degree >= 1 may be None: structurally zero. It costs nothing, which matters because the
series put in, x + t v, has only two.
"""

from __future__ import annotations

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


def product(a: Operand, b: Operand) -> Operand:
    """a b, where both may be constants."""
    return multiply(a, b) if isinstance(a, Series) or isinstance(b, Series) else a * b


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


def one_plus(u: Series, sign: int = 1) -> Series:
    """1 + sign u²."""
    squared = square(u)
    return add(squared if sign > 0 else negative(squared), 1.0)
