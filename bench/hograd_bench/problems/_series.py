"""Truncated power series in one variable t: the truth for f(x + tv) and its derivatives at every order.

Independent of hograd_core by design: these recurrences check its kernels.
Source: Griewank & Walther 2008, Evaluating Derivatives, Tables 13.1 and 13.2; tanh from its ODE h′ = (1 − h²) u′.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Series:
    """c_0 + c_1 t + ... + c_K t^K with tensor coefficients; operations truncate at t^K."""

    def __init__(self, coefficients: Sequence[Tensor]) -> None:
        self.coefficients = list(coefficients)

    @classmethod
    def line(cls, x: Tensor, v: Tensor, degree: int) -> Series:
        """X + t v, truncated at t^degree."""
        return cls([x, v, *[torch.zeros_like(x)] * degree][: degree + 1])

    def derivative(self, order: int) -> Tensor:
        """The order-th derivative in t at t = 0."""
        return math.factorial(order) * self.coefficients[order]

    def map(self, linear: Callable[[Tensor], Tensor]) -> Series:
        """A linear function of the tensors (sum, matrix product, view, ...), applied to every coefficient."""
        return Series([linear(c) for c in self.coefficients])

    def __add__(self, other: Series | float | Tensor) -> Series:
        if isinstance(other, Series):
            return Series([a + b for a, b in zip(self.coefficients, other.coefficients, strict=True)])
        return Series([self.coefficients[0] + other, *self.coefficients[1:]])

    def __neg__(self) -> Series:
        return self.map(torch.neg)

    def __sub__(self, other: Series | float | Tensor) -> Series:
        return self + (-other)

    def __mul__(self, other: Series | float) -> Series:
        if isinstance(other, Series):
            return self.bilinear(other, torch.mul)
        return Series([c * other for c in self.coefficients])

    def __matmul__(self, other: Series) -> Series:
        return self.bilinear(other, torch.matmul)

    def bilinear(self, other: Series, product: Callable[[Tensor, Tensor], Tensor]) -> Series:
        """Cauchy product by any bilinear function of the coefficients."""
        a, b = self.coefficients, other.coefficients
        terms = ([product(a[j], b[k - j]) for j in range(k + 1)] for k in range(len(a)))
        return Series([_total(t) for t in terms])

    def __truediv__(self, other: Series) -> Series:
        a, b = self.coefficients, other.coefficients
        q: list[Tensor] = []
        for k in range(len(a)):
            q.append(_total([a[k], *(-(b[j] * q[k - j]) for j in range(1, k + 1))]) / b[0])
        return Series(q)

    def sqrt(self) -> Series:
        """Square root r of u: u_k = sum_j r_j r_{k-j}."""
        u = self.coefficients
        r = [u[0].sqrt()]
        for k in range(1, len(u)):
            r.append(_total([u[k], *(-(r[j] * r[k - j]) for j in range(1, k))]) / (2 * r[0]))
        return Series(r)

    def exp(self) -> Series:
        """Exponential e of u: k e_k = sum_j j u_j e_{k-j}."""
        u = self.coefficients
        e = [u[0].exp()]
        for k in range(1, len(u)):
            e.append(_total([j * u[j] * e[k - j] for j in range(1, k + 1)]) / k)
        return Series(e)

    def sin(self) -> Series:
        """Sine s of u, with its cosine c: k s_k = sum_j j u_j c_{k-j}, k c_k = -sum_j j u_j s_{k-j}."""
        u = self.coefficients
        s, c = [u[0].sin()], [u[0].cos()]
        for k in range(1, len(u)):
            s_k = _total([j * u[j] * c[k - j] for j in range(1, k + 1)]) / k
            c_k = -_total([j * u[j] * s[k - j] for j in range(1, k + 1)]) / k
            s.append(s_k)
            c.append(c_k)
        return Series(s)

    def tanh(self) -> Series:
        """Hyperbolic tangent h of u, with w = 1 - h²: k h_k = sum_j j u_j w_{k-j}."""
        u = self.coefficients
        h = [u[0].tanh()]
        w = [1 - h[0] * h[0]]
        for k in range(1, len(u)):
            h.append(_total([j * u[j] * w[k - j] for j in range(1, k + 1)]) / k)
            w.append(-_total([h[j] * h[k - j] for j in range(k + 1)]))
        return Series(h)


def _total(terms: Sequence[Tensor]) -> Tensor:
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result
