"""Derivatives known on paper at every order, for families of functions that several problems share.

Tensors are in x's dtype and on its device. A full tensor of order k has numel(x)^k entries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hograd_bench.problems._contract import ClosedForm
from hograd_bench.problems._series import Series


def separable(x: Tensor, derivative: Callable[[int], Tensor]) -> ClosedForm:
    """F(x) = Σ φ_i(x_i): only diagonal entries φ_i^(k)(x_i), which ``derivative(k)`` gives, shaped like x (1-d)."""
    index = torch.arange(x.numel(), device=x.device)

    def tensor(order: int) -> Tensor:
        result = torch.zeros(x.shape * order, dtype=x.dtype, device=x.device)
        result[(index,) * order] = derivative(order)
        return result

    return ClosedForm(
        tensor=tensor,
        product=lambda order, v: derivative(order) * v ** (order - 1),
        directional=lambda order, v: (derivative(order) * v**order).sum(),
    )


def along_lines(
    x: Tensor,
    value: Callable[[Series], Series],
    gradient: Callable[[Series], Series] | None = None,
    tensor: Callable[[int], Tensor | None] | None = None,
) -> ClosedForm:
    """Closed forms from f and ∇f written by hand for series: D^k f[v,…,v] is k! times the coefficient of t^k.

    Args:
        x: the point.
        value: f on a series that starts at x.
        gradient: ∇f on such a series, shaped like x; gives D^k f[v,…,v,·].
        tensor: order -> full tensor, where known.

    Returns:
        Closed forms for every order >= 1 that cost O(k²) evaluations of f.
    """

    def directional(order: int, v: Tensor) -> Tensor:
        return value(Series.line(x, v, order)).derivative(order)

    if gradient is None:
        return ClosedForm(tensor=tensor, directional=directional)
    hand_written = gradient

    def product(order: int, v: Tensor) -> Tensor:
        return hand_written(Series.line(x, v, order - 1)).derivative(order - 1)

    return ClosedForm(tensor=tensor, product=product, directional=directional)


def set_partitions(size: int) -> Iterator[list[list[int]]]:
    """All partitions of {0, ..., size-1} into blocks (Bell number many)."""
    if size == 0:
        yield []
        return
    for smaller in set_partitions(size - 1):
        yield [*smaller, [size - 1]]
        for i, block in enumerate(smaller):
            yield [*smaller[:i], [*block, size - 1], *smaller[i + 1 :]]


def softmax_cumulants(p: Tensor, order: int) -> Tensor:
    """Order-th derivative of log Σ exp(z_i) by z, from p = softmax(z): shape ``batch + (c,) * order``.

    log-sum-exp generates the joint cumulants of a categorical variable, so its derivatives are
    Σ over set partitions π of (-1)^(|π|-1) (|π|-1)! Π over blocks of E[Π e_i], and E[Π e_i] is p_i where all
    indices of the block agree, else 0 (McCullagh 1987, Tensor Methods in Statistics, ch. 2).

    Args:
        p: probabilities, shape ``batch + (c,)``.
        order: derivative order, >= 1.

    Returns:
        One symmetric tensor for each element of the batch.
    """
    classes = p.shape[-1]
    result = torch.zeros((*p.shape[:-1], *(classes,) * order), dtype=p.dtype, device=p.device)
    for partition in set_partitions(order):
        sign = (-1) ** (len(partition) - 1) * math.factorial(len(partition) - 1)
        letters = "abcdefghij"[:order]
        factors = [_diagonal(p, len(block)) for block in partition]
        subscripts = ["..." + "".join(letters[i] for i in block) for block in partition]
        result = result + sign * torch.einsum(f"{','.join(subscripts)}->...{letters}", *factors)
    return result


def _diagonal(p: Tensor, order: int) -> Tensor:
    """The tensor with p on its order-fold diagonal and zero elsewhere, batched like p."""
    result = torch.zeros((*p.shape, *p.shape[-1:] * (order - 1)), dtype=p.dtype, device=p.device)
    diagonal: Any = (..., *[torch.arange(p.shape[-1], device=p.device)] * order)
    result[diagonal] = p
    return result


def least_squares(residual: Tensor, jacobian: Tensor, second: Tensor) -> Callable[[int], Tensor]:
    """Tensors of Σ r_m(x)²/2 for residuals that are QUADRATIC in x: exact at every order, zero beyond the fourth.

    By the product rule, D^k of r_m r_m / 2 sums over the ways to hand the k slots to the two factors.

    Args:
        residual: r, shape (m,).
        jacobian: ∂r, shape (m, n).
        second: ∂²r, constant, shape (m, n, n).

    Returns:
        order -> symmetric tensor of shape ``(n,) * order``.
    """
    parts = {0: residual, 1: jacobian, 2: second}

    def tensor(order: int) -> Tensor:
        n = jacobian.shape[1]
        result = torch.zeros((n,) * order, dtype=jacobian.dtype, device=jacobian.device)
        letters = "abcdefghij"[:order]
        for count in range(order + 1):
            if count not in parts or order - count not in parts:
                continue
            for chosen in itertools.combinations(letters, count):
                left = "".join(chosen)
                right = "".join(letter for letter in letters if letter not in chosen)
                term = torch.einsum(f"z{left},z{right}->{letters}", parts[count], parts[order - count])
                result = result + term / 2
        return result

    return tensor
